"""Other prompts in place of those whose samples all earned the same (DAPO's dynamic sampling, arXiv 2503.14476)."""

from collections.abc import Sequence

from flowgrpo.config.sections import RolloutConfig
from flowgrpo.data.prompts import Prompt, PromptOrder
from flowgrpo.training.scored import Assessment, Group


class Refill:
    """Says with which prompts an update goes on. All processes hold all scores, so they agree."""

    def __init__(self, config: RolloutConfig, order: PromptOrder, assessment: Assessment) -> None:
        self.wanted, self.most = config.prompts_per_update, config.most_added
        self.order, self.assessment = order, assessment

    def __call__(self, prompts: Sequence[Prompt], groups: Sequence[Group], update: int) -> list[Prompt]:
        """As many as groups have nothing to teach, of those that the update has not had; none once it has had `most` more."""
        left = self.wanted + self.most - len(groups)
        if left <= 0:
            return []
        return self.order.more(min(left, self.wanted - self.assessment.teaching(groups, update)), update, prompts)
