"""A run as a person has it: its folder, the trained model, its curves and its report."""

from functools import cached_property

from flowgrpo.core.processes import Processes
from flowgrpo.pages.page import Page, framed
from flowgrpo.pages.site import HOST, Site
from flowgrpo.policies.protocol import Sampler
from flowgrpo.runs.folder import RunFolder
from flowgrpo.runs.report import curves_page, report_page
from flowgrpo.runs.watch import watch


class Run(RunFolder):
    """What is in the folder is read anew at every question."""

    @cached_property
    def policy(self) -> Sampler:
        """The trained model, to generate with: loaded from the last weights, or the policy that was passed to `train`."""
        return self.config.policy.build_sampler(Processes.alone().device, self.weights)

    def plot(self) -> Page:
        """The curves of training."""
        return curves_page(self)

    def watch(self, host: str = HOST, port: int = 0) -> Site:
        """The report while it trains, at the `url` of what is returned, until that is closed; port 0 is any free one."""
        return watch(self, host, port)

    def _repr_html_(self) -> str:
        return framed(report_page(self))
