"""Log-mel features: of a window of 30 s, or of 300 s as the real checkpoint has it, against those of the sound's own length."""

from collections.abc import Callable

from transformers import Qwen2_5OmniProcessor, WhisperFeatureExtractor

from benchmarks.scene import Scene
from benchmarks.timing import SAME, Comparison, Result
from models.clips import ClipReader
from models.media import RATE, read_audio


def mel(scene: Scene) -> list[Comparison]:
    """Sound of the usual clip, reading it included; the valid frames are the same to the last bit."""
    path = scene.folder / scene.record(0, scene.size.seconds[1]).uid
    stock = scene.processor.processor
    assert isinstance(stock, Qwen2_5OmniProcessor)
    reader = ClipReader(stock, scene.processor.settings, None)

    def padded(seconds: int) -> Callable[[], Result]:
        extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=RATE, chunk_length=seconds)

        def work() -> Result:
            out = extractor(read_audio(path), sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
            return {"mel": out["input_features"][0, :, : int(out["attention_mask"].sum())]}

        return work

    def exact() -> Result:
        return {"mel": reader.read({"type": "audio", "path": str(path), "span": None})["mel"]}

    ways = {"stock, padded to 300 s": padded(300), "stock, padded to 30 s": padded(30), "its own length": exact}
    return [Comparison(f"log-mel of {scene.size.seconds[1]:g} s", ways, {"mel": SAME})]
