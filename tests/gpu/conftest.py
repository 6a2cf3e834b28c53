import pytest
import torch


def pytest_addoption(parser) -> None:
    parser.addoption("--rehearse", action="store_true", help="run the tests that wait for a GPU on the CPU")


@pytest.fixture
def device(request) -> str:
    """The GPU, or the CPU in a rehearsal; otherwise the test is skipped."""
    if torch.cuda.is_available():
        return "cuda"
    if not request.config.getoption("--rehearse", default=False):
        pytest.skip("no NVIDIA GPU here; --rehearse runs this test on the CPU")
    return "cpu"
