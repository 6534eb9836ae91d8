"""A model that is known to be exact: its spec, its network, its proof and its digest."""

from dataclasses import dataclass
from functools import cached_property

from elman.repository.calibration import Calibration
from elman.repository.digest import Piece
from elman.repository.network import Network
from elman.repository.proof import Proof
from elman.repository.spec import ModelSpec
from elman.repository.triton import TritonConfig


@dataclass(frozen=True)
class Model:
    """One version of one model, ready to serve."""

    name: str
    version: int
    spec: ModelSpec
    network: Network
    proof: Proof
    calibration: Calibration
    digest: str
    triton: TritonConfig | None = None
    """What its `config.pbtxt` says, if it has one."""
    external: tuple[Piece, ...] = ()
    """The tensors that its file keeps in other files."""

    @property
    def tokens(self) -> bool:
        """Whether a sequence is token ids rather than rows of features."""
        return self.network.features is None

    @property
    def sessions(self) -> bool:
        """Whether it has sessions: its state can be carried, or it takes windows, which the session slides on."""
        return self.proof.streaming or self.slides

    @cached_property
    def slides(self) -> bool:
        """Whether a session runs it on the last steps: it takes a fixed number of steps."""
        return self.network.window is not None and not self.frames

    @cached_property
    def frames(self) -> bool:
        """Whether a sequence is a signal that the server cuts into frames."""
        return self.spec.input.kind == "frames"
