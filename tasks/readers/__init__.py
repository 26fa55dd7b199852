"""One file per public format. A reader yields Records; a malformed row raises with file, line, field, value and remedy."""
