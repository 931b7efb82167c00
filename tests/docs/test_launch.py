"""The launch files of docs/launch: they parse, ask for as many cards as they use, and a job whose time is over goes on."""

import copy
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import site_reference
from flowgrpo.cli._parser import Parser, parse
from flowgrpo.config.run import Config, load_config
from flowgrpo.config.tree import with_overrides

LAUNCH = Path(__file__).parents[2] / "docs" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}


def exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": [*required],
        "additionalProperties": False,
    }


def listing(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


METADATA = exactly({"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}})
CONTAINER = exactly(
    {"name": TEXT, "image": TEXT, "resources": exactly({"limits": {"type": "object", "required": ["nvidia.com/gpu"]}})},
    command=listing(TEXT),
    env=listing(exactly({"name": TEXT, "value": TEXT})),
    volumeMounts=listing(exactly({"name": TEXT, "mountPath": {"type": "string", "pattern": "^/"}})),
)
VOLUME = {
    "oneOf": [
        exactly({"name": TEXT, "persistentVolumeClaim": exactly({"claimName": TEXT})}),
        exactly({"name": TEXT, "emptyDir": exactly({"medium": {"const": "Memory"}})}),
    ]
}
POD = exactly(
    {"containers": listing(CONTAINER)},
    volumes=listing(VOLUME),
    subdomain=TEXT,
    restartPolicy={"enum": ["OnFailure", "Never"]},
    terminationGracePeriodSeconds=WHOLE,
)
TEMPLATE = exactly({"spec": POD})
RAY_START = {"type": "object", "additionalProperties": TEXT}
HEAD = exactly({"template": TEMPLATE, "rayStartParams": RAY_START})
WORKERS = exactly(
    {
        "groupName": TEXT,
        "replicas": WHOLE,
        "minReplicas": WHOLE,
        "maxReplicas": WHOLE,
        "rayStartParams": RAY_START,
        "template": TEMPLATE,
    }
)
SCHEMAS = {
    ("v1", "Service"): exactly(
        {"clusterIP": {"const": "None"}, "selector": {"type": "object"}}, publishNotReadyAddresses={"const": True}
    ),
    ("batch/v1", "Job"): exactly(
        {"template": TEMPLATE},
        completionMode={"enum": ["Indexed", "NonIndexed"]},
        completions=WHOLE,
        parallelism=WHOLE,
        backoffLimit=WHOLE,
    ),
    ("ray.io/v1", "RayJob"): exactly(
        {
            "entrypoint": TEXT,
            "rayClusterSpec": exactly({"headGroupSpec": HEAD, "workerGroupSpecs": listing(WORKERS)}),
        },
        shutdownAfterJobFinishes={"type": "boolean"},
        backoffLimit=WHOLE,
    ),
}
"""Of the `spec` of what may be there: the fields that these files use, as Kubernetes and KubeRay name them."""


def objects(file: Path) -> dict[str, Any]:
    """What a manifest makes, by kind."""
    return {made["kind"]: made for made in yaml.safe_load_all(file.read_text(encoding="utf-8"))}


def check(made: dict[str, Any]) -> None:
    spec = SCHEMAS[made["apiVersion"], made["kind"]]
    jsonschema.validate(made, exactly({"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA, "spec": spec}))


def words(file: Path) -> list[str]:
    """Of the command that trains, from `train` on."""
    if file.suffix == ".yaml":
        made = objects(file)
        pods = made.get("Job", {}).get("spec", {}).get("template", {})
        said = pods["spec"]["containers"][0]["command"] if pods else shlex.split(made["RayJob"]["spec"]["entrypoint"])
    else:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        said = shlex.split(re.search(r"^.*\bflowgrpo train .*?(?= &$)", text, re.MULTILINE)[0])
    return said[said.index("flowgrpo") + 1 :]


def fleet(overrides: list[str]) -> dict[str, Any]:
    return with_overrides({}, [override for override in overrides if override.startswith("fleet")]).get("fleet", {})


def parsed(file: Path) -> Any:
    own, top = site_reference.parser_of("train"), Parser(prog="flowgrpo")
    top.add_subparsers(dest="command").add_parser("train", parents=[own], add_help=False, conflict_handler="resolve")
    return parse(top, own, words(file))


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_a_manifest_has_the_fields_that_its_kind_has(file):
    for made in objects(file).values():
        check(made)


def test_a_field_that_is_missing_or_misspelt_is_seen():
    job = objects(LAUNCH / "kuberay_rayjob.yaml")["RayJob"]
    for path in ("entrypoint", "rayClusterSpec.headGroupSpec.template", "rayClusterSpec.workerGroupSpecs.0.minReplicas"):
        *above, last = path.split(".")
        broken = copy.deepcopy(job)
        place = broken["spec"]
        for key in above:
            place = place[int(key) if key.isdigit() else key]
        value = place.pop(last)
        with pytest.raises(jsonschema.ValidationError, match="required"):
            check(broken)
        place |= {last: value, f"{last}s": value}
        with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
            check(broken)


@pytest.mark.parametrize("file", [*SCRIPTS, *MANIFESTS], ids=lambda file: file.name)
def test_the_command_that_trains_is_understood_and_goes_on_by_itself(file):
    arguments = parsed(file)
    assert arguments.resume == "auto"
    known = [override for override in arguments.overrides if "fleet" in Config.model_fields or not override.startswith("fleet")]
    assert load_config(arguments.config, known).output.endswith("runs/pickscore")


def cards(file: Path) -> int:
    """That a file asks for."""
    if file.suffix == ".sh":
        text = file.read_text(encoding="utf-8")
        nodes, each = (int(re.search(rf"^#SBATCH --{key}=(\d+)$", text, re.MULTILINE)[1]) for key in ("nodes", "gpus-per-node"))
        return nodes * each
    made = objects(file)
    if "Job" in made:
        spec = made["Job"]["spec"]
        assert spec["completions"] == spec["parallelism"]
        return spec["parallelism"] * gpus(spec["template"])
    spec = made["RayJob"]["spec"]["rayClusterSpec"]
    return gpus(spec["headGroupSpec"]["template"]) + sum(
        group["replicas"] * gpus(group["template"]) for group in spec["workerGroupSpecs"]
    )


def gpus(template: dict[str, Any]) -> int:
    return template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("name", ["slurm_ray.sh", "kuberay_rayjob.yaml"])
def test_a_fleet_has_a_card_for_each_actor_and_one_for_the_trainer(name):
    said = fleet(parsed(LAUNCH / name).overrides)
    assert said["rollout"] + sum(said["rewards"].values()) + 1 == cards(LAUNCH / name)
    assert {*said["rewards"]} <= {*load_config(["sd3.5-medium", "flow_grpo", "pickscore"]).rewards}


@pytest.mark.parametrize(("name", "number"), [("slurm_torchrun.sh", "$SLURM_NNODES"), ("kubernetes_job.yaml", "4")])
def test_torchrun_starts_a_process_for_each_card(name, number):
    text = (LAUNCH / name).read_text(encoding="utf-8")
    said = re.sub(r'[",]', "", text)
    assert f"--nnodes {number} " in said and cards(LAUNCH / name) == 4 * int(re.search(r"--nproc-per-node (\d+)", said)[1])


def test_pods_find_one_another():
    made = objects(LAUNCH / "kubernetes_job.yaml")
    name = made["Job"]["metadata"]["name"]
    pod = made["Job"]["spec"]["template"]["spec"]
    assert made["Service"]["metadata"]["name"] == pod["subdomain"] and made["Service"]["spec"]["selector"] == {"job-name": name}
    assert f"{name}-0.{pod['subdomain']}:29500" in pod["containers"][0]["command"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_a_script_is_bash_and_says_what_ends_it(file):
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True, check=False).returncode == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --signal=B:USR1@120" in lines and "#SBATCH --requeue" in lines


STANDS_FOR = """#!/bin/bash
# Says that it was called; what trains ends with CODE, or works until it is told to end.
echo "$(basename "$0") $*" >> calls
case "$(basename "$0") $*" in
    "scontrol show"*) echo node-1; echo node-2 ;;
    scancel*) kill -USR1 "$(cat working)" ;;
    *"flowgrpo train "*)
        trap 'exit 1' USR1
        test -z "$CODE" || exit "$CODE"
        echo $$ > new && mv new working
        while true; do sleep 0.02; done ;;
esac
"""


def job(script: Path, folder: Path, code: str) -> subprocess.Popen:
    for name in ("srun", "scontrol", "scancel", "ray", "flowgrpo"):
        (folder / name).write_text(STANDS_FOR)
        (folder / name).chmod(0o755)
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-4]", "SLURM_NNODES": "4", "CODE": code}
    return subprocess.Popen(["bash", str(script)], cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin", **given})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_a_job_whose_time_is_over_ends_its_update_and_is_queued_again(script, tmp_path):
    running = job(script, tmp_path, "")
    until = time.monotonic() + 60.0
    while not (tmp_path / "working").is_file():
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.2)
    running.send_signal(signal.SIGUSR1)
    assert running.wait(60) == 0
    assert "scontrol requeue 7" in (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
@pytest.mark.parametrize("code", ["0", "2"])
def test_a_job_that_ends_by_itself_is_not_queued_again(script, code, tmp_path):
    assert job(script, tmp_path, code).wait(60) == int(code)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert not any("requeue" in call for call in calls) and any("flowgrpo train " in call for call in calls)
