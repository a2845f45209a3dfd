"""Types of the compiled part."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy
import numpy.typing

Array = Any  # numpy.ndarray, torch.Tensor, or what lends a tensor by the DLPack protocol
Layout = Literal["NCHW", "NHWC"]
Path = str | os.PathLike[str]

__version__: str

class DeviceError(RuntimeError): ...

class DeviceArray:
    @property
    def shape(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: int | Any | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Output:
    @property
    def logits(self) -> numpy.typing.NDArray[numpy.float32]: ...
    @property
    def logits_on_device(self) -> DeviceArray | None: ...
    @property
    def rates(self) -> dict[str, float]: ...
    @property
    def spikes(self) -> dict[str, numpy.typing.NDArray[numpy.bool_]]: ...

class Optimizer:
    lr: float
    @property
    def steps(self) -> int: ...

class Network:
    time_steps: int
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def normalization(self) -> dict[str, Any]: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def neuron(self) -> Literal["if", "lif", "relu"]: ...
    @property
    def layers(self) -> list[str]: ...
    @property
    def device(self) -> str: ...
    @property
    def folder(self) -> os.PathLike[str] | None: ...
    @staticmethod
    def build(
        layers: Sequence[Any],
        *,
        input_shape: tuple[int, int, int],
        classes: int | Sequence[str],
        neuron: Literal["if", "lif", "relu"] = "if",
        time_steps: int | None = None,
        threshold: float | None = None,
        alpha: float = 0.5,
        tau: float = 1.0,
        delta_t: float = 0.05,
        threshold_bound: float = 0.01,
        weight_bits: Literal[8, 16] = 16,
        readout: Literal["spikes", "current"] = "spikes",
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Network: ...
    def __call__(
        self, images: Array, spikes: bool | str | Sequence[str] | None = None, layout: Layout = "NCHW", batch: int = 128
    ) -> Output: ...
    def train_step(self, images: Array, labels: Array, optimizer: Optimizer, layout: Layout = "NCHW") -> float: ...
    def choose_thresholds(self, images: Array, layout: Layout = "NCHW") -> dict[str, float]: ...
    def state_dict(self) -> dict[str, numpy.ndarray[Any, Any]]: ...
    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> None: ...
    def save(self, path: Path, optimizer: Optimizer | None = None) -> None: ...
    def load(self, path: Path) -> None: ...
    def to(self, device: str) -> Network: ...
    def copy(self) -> Network: ...
    def graph(self) -> dict[str, Any]: ...
    def _parameters(self) -> list[tuple[str, list[int]]]: ...
    def _choose_once(self, images: Array, layout: Layout = "NCHW") -> bool: ...
    def _changes(self) -> int: ...
    def _train_forward(
        self, images: Array, seed: int, layout: Layout = "NCHW"
    ) -> tuple[numpy.ndarray[Any, Any] | DeviceArray, list[float], int]: ...
    def _backward(
        self, images: Array, grad_logits: Array, number: int, layout: Layout = "NCHW"
    ) -> tuple[list[numpy.ndarray[Any, Any]], numpy.ndarray[Any, Any]]: ...

def load(path: Path, device: str = "cpu", average: bool = False) -> Network: ...
def dataset(
    name: str, split: Literal["train", "test"] = "test", data_dir: Path | None = None
) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.int64]]: ...
def train(
    dataset: str | None = None,
    data_dir: Path | None = None,
    out: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    recipe: str | None = None,
    resume: Path | None = None,
    init_from: Path | None = None,
    new_head: bool = False,
    device: str = "auto",
    break_lock: bool = False,
    checkpoint_every: int | None = None,
    **settings: Any,
) -> Network: ...
def SGD(
    net: Network,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    clip_norm: float | None = None,
    decay_on: Literal["all", "weights"] = "all",
) -> Optimizer: ...
def Adam(
    net: Network,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    decay_on: Literal["all", "weights"] = "all",
) -> Optimizer: ...
def AdamW(
    net: Network,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    clip_norm: float | None = None,
    decay_on: Literal["all", "weights"] = "all",
) -> Optimizer: ...
def set_threads(threads: int) -> None: ...
def get_threads() -> int: ...
def _network(about: dict[str, Any], given: dict[str, Any]) -> Network: ...
def _build(about: dict[str, Any], constants: dict[str, Any], layers: list[Any]) -> Network: ...
