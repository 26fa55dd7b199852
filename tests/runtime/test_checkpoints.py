"""The newest whole checkpoint is taken, and a torn one does not survive."""

from runtime.checkpoints import last_checkpoint


def make(folder, step, state="{}"):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None


def test_the_highest_step_wins_and_not_the_last_name(tmp_path):
    make(tmp_path, 90)
    newest = make(tmp_path, 100)
    assert last_checkpoint(tmp_path) == newest


def test_checkpoints_that_were_cut_off_while_saving_are_removed(tmp_path):
    whole = make(tmp_path, 10)
    torn = [make(tmp_path, 20, state=None), make(tmp_path, 30, state='{"global_step": 3')]
    assert last_checkpoint(tmp_path) == whole
    assert not any(path.exists() for path in torn)


def test_another_rank_than_the_first_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    whole, torn = make(tmp_path, 10), make(tmp_path, 20, state=None)
    assert last_checkpoint(tmp_path) == whole
    assert torn.exists()
