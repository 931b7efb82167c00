"""From samples to the requests that hold them."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.serving.pictures import png
from flowgrpo.scoring.serving.wire import Limits, Sample, complaint


def encoded(samples: Samples, row: int) -> bytes:
    """One sample as JSON."""
    metadata = samples.metadata[row]
    try:
        sample = _sample(samples.decoded[row], samples.prompts[row], metadata, samples.group[row])
        return sample.model_dump_json(exclude_unset=True).encode()
    except ValidationError as error:
        raise UserError(f"the prompt row {str(metadata)[:200]} can't be sent as JSON: {complaint(error)}") from error
    except PydanticSerializationError as error:
        raise UserError(f"the prompt row {str(metadata)[:200]} can't be sent as JSON: {error}") from error


def _sample(output: Tensor | str, prompt: str, metadata: dict, group: int) -> Sample:
    if isinstance(output, str):
        return Sample(prompt=prompt, metadata=metadata, group=group, text=output)
    if output.ndim == 3:
        return Sample(prompt=prompt, metadata=metadata, group=group, image=png(output))
    return Sample(prompt=prompt, metadata=metadata, group=group, frames=[png(frame) for frame in output])


def body(encodings: Sequence[bytes]) -> bytes:
    """The request of encoded samples."""
    return b'{"samples":[' + b",".join(encodings) + b"]}"


def packed(samples: Samples, encodings: Sequence[bytes], limits: Limits) -> list[list[int]]:
    """The rows of each request: as many whole groups as are scored together, one at least."""
    wanted = limits.model_copy(update={"samples": min(limits.batch, limits.samples)})
    requests: list[list[int]] = []
    for number in dict.fromkeys(samples.group):
        rows = [row for row, group in enumerate(samples.group) if group == number]
        if requests and not _excess(samples, encodings, requests[-1] + rows, wanted):
            requests[-1] += rows
        elif excess := _excess(samples, encodings, rows, limits):
            raise UserError(
                f"the server needs groups whole, and one of {len(rows)} samples is too much ({excess}); raise its limits"
            )
        else:
            requests.append(rows)
    return requests


def _excess(samples: Samples, encodings: Sequence[bytes], rows: list[int], limits: Limits) -> str:
    """What of these rows is beyond the limits of a request, if anything."""
    pixels = outputs[0].numel() // 3 if isinstance(outputs := samples.decoded, Tensor) else 0
    size = len(body([])) + sum(len(encodings[row]) + 1 for row in rows)
    sizes = {"samples": len(rows), "bytes": size, "pixels": pixels * len(rows)}
    return ", ".join(f"{n} {what} of {vars(limits)[what]}" for what, n in sizes.items() if n > vars(limits)[what])
