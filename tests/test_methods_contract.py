"""What every entry of METHODS promises, over the table: a new entry is tested the moment it exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch import layer_map
from kdsearch.data.views import Batch
from kdsearch.losses import METHODS, SLOTS
from kdsearch.losses.kd import kd
from kdsearch.losses.terms import Access, TermContext, build_terms, total_loss
from kdsearch.models.build import Architecture, Classifier, Outputs, Stage
from kdsearch.options import Option
from kdsearch.records import Choice, TrainConfig, TrialConfig

NUM_CLASSES, NUM_SAMPLES, NUM_EPOCHS = 6, 40, 30
LATE = NUM_EPOCHS  # an epoch behind every warm-up
FIELDS, MAPS = {"logits", "features", "embedding"}, {"before", "stem"}
TOKENS = {"attention", "qkv", "tokens"}
TENSORS = FIELDS | MAPS | TOKENS


class Network(NamedTuple):
    """What a network publishes: (channels, size) of every stage, the embedding's width, attention heads."""

    stages: tuple[tuple[int, int], ...]
    width: int
    heads: int = 2


SMALL = Network(stages=((3, 8), (4, 4), (6, 2)), width=6)
WIDE = Network(stages=((5, 8), (7, 4), (9, 2)), width=9, heads=3)
FINE = Network(stages=((5, 16), (7, 7), (9, 4)), width=9, heads=3)
DEEP = Network(stages=((5, 8), (7, 8), (9, 4), (9, 2)), width=12)
FLAT, FLAT_WIDE = Network(stages=((8, 1), (8, 1)), width=8), Network(stages=((12, 1),) * 3, width=12)

# What a method needs, but not of the student with a gradient: the student is its own teacher there, or the
# teacher's maps are met by other ones of the student.
DETACHED = {"byot": {"logits", "embedding"}, "reviewkd": {"before"}}
WITHOUT_TEMPERATURE = {"ctkd", "pseudo_label"}

PAIRS = {
    "same shapes": (SMALL, SMALL),
    "more channels": (SMALL, WIDE),
    "fewer channels": (WIDE, SMALL),
    "larger maps": (SMALL, FINE),
    "smaller maps": (FINE, SMALL),
    "more stages": (SMALL, DEEP),
    "fewer stages": (DEEP, SMALL),
}


def of(**fields: Any) -> list[str]:
    """The keys of the methods whose entries have these values."""
    return [
        key
        for key, method in METHODS.items()
        if all(getattr(method, name) == value for name, value in fields.items())
    ]


def stages(network: Network) -> tuple[Stage, ...]:
    return tuple(Stage(f"stage{i}", *shape) for i, shape in enumerate(network.stages, start=1))


def outputs(
    network: Network, batch_size: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Outputs:
    """Random outputs in float64, then rounded, as leaves that want a gradient.

    The features are the ReLU of `before`, but leaves of their own, so that it shows which of them is read.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, generator=generator, dtype=torch.float64)

    def leaf(x: Tensor) -> Tensor:
        return x.detach().to(dtype).requires_grad_()

    maps = {stage.name: normal(stage.channels, stage.size, stage.size) for stage in stages(network)}
    logits, embedding = 2 * normal(NUM_CLASSES), normal(network.width)
    channels, size = network.stages[0]
    details = {
        "before": {name: leaf(map_) for name, map_ in maps.items()},
        "stem": {"stem": leaf(normal(channels, size, size).relu())},
    }
    lengths = {stage.name: 1 + stage.size**2 for stage in stages(network)}
    entering = {"embedding": 1 + size**2}
    details |= {
        "attention": {name: leaf(normal(network.heads, n, n)) for name, n in lengths.items()},
        "qkv": {name: leaf(normal(3, n, 24 * network.heads).transpose(0, 1)) for name, n in lengths.items()},
        "tokens": {name: leaf(normal(n, network.width)) for name, n in (entering | lengths).items()},
    }
    features = {name: leaf(map_.relu()) for name, map_ in maps.items()}
    return Outputs(leaf(logits), features, leaf(embedding), details)


def projected(student: Outputs, teacher: Outputs) -> Outputs:
    """With what a student that ends in its teacher's classifier makes of its last map."""
    *_, own = student.features.values() or [None]
    *_, other = teacher.features.values() or [None]
    if own is None or other is None:
        return student
    size = min(own.shape[2], other.shape[2])
    generator = torch.Generator().manual_seed(7)
    kernel = torch.randn(other.shape[1], own.shape[1], 1, 1, generator=generator).to(own)
    map_ = F.conv2d(F.adaptive_avg_pool2d(own, size), kernel)
    return student._replace(details={**student.details, "projected": {"map": map_}})


def leaves(out: Outputs) -> Iterator[Tensor]:
    yield from (out.logits, *out.features.values(), out.embedding)
    for maps in out.details.values():
        yield from maps.values()


def gradients(out: Outputs) -> dict[str, Tensor]:
    """The gradient by field of the outputs and kind of the details, flat; zeros where none arrived."""
    fields = {
        "logits": [out.logits],
        "features": list(out.features.values()),
        "embedding": [out.embedding],
        **{kind: list(maps.values()) for kind, maps in out.details.items()},
    }
    return {
        name: torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten() for x in tensors])
        for name, tensors in fields.items()
    }


def read_by(key: str) -> frozenset[str]:
    """The fields of the outputs that a method reads by default: of stages and embeddings only one."""
    method = METHODS[key]
    of_embeddings = method.options.get("layer_map", Option("str", "")).default == layer_map.EMBEDDING
    return (method.needs - ({"features"} if of_embeddings else set())) & TENSORS


def batch(batch_size: int = 8) -> Batch:
    """Classes and sample numbers in turn; the images are not what a loss reads."""
    numbers = torch.arange(batch_size)
    images = torch.zeros(batch_size, 1, 8, 8)
    return Batch(images, labels=numbers % NUM_CLASSES, indices=3 * numbers % NUM_SAMPLES)


def mixed_batch() -> Batch:
    plain = batch()
    shares = torch.linspace(0.5, 1.0, len(plain.labels), dtype=torch.float64)
    return dataclasses.replace(plain, mixed_labels=plain.labels.flip(0), mix=shares)


def labels_of_all() -> Tensor:
    """The labels of the training images that `batch` takes its samples from."""
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    labels[batch().indices] = batch().labels
    return labels


class Stub(Classifier):
    """A network without layers: what a term asks of a model rather than of its outputs."""

    def __init__(self, network: Network) -> None:
        super().__init__(Architecture("stub", {}, NUM_CLASSES, 1, 16), stages(network), network.width)
        self.published = network
        self.batch_norms = {stage.name: nn.BatchNorm2d(stage.channels) for stage in self.stages}

    @property
    def stem_channels(self) -> int:
        return self.published.stages[0][0]

    def norms(self) -> dict[str, nn.BatchNorm2d | None]:
        return dict(self.batch_norms)


def access(student: Network, teacher: Network, dtype: torch.dtype) -> Access:
    """Further views are images of their sample's number, and the answers to them depend on it."""

    def view(indices: Tensor, epoch: int, number: int) -> Batch:
        images = (indices + number).to(dtype).div(NUM_SAMPLES)[:, None, None, None].expand(-1, 1, 8, 8)
        return Batch(images, labels_of_all()[indices], indices)

    def answers(network: Network, images: Tensor, seed: int) -> Outputs:
        out = outputs(network, len(images), dtype, seed)
        return out._replace(logits=out.logits * (1 + images.mean((1, 2, 3))[:, None]))

    return Access(
        student=lambda images: answers(student, images, seed=3),
        teacher=lambda images: answers(teacher, images, seed=4),
        view=view,
        strong=lambda indices, epoch: view(indices, epoch, 20),
        labels=labels_of_all(),
        student_model=Stub(student),
        teacher_model=Stub(teacher),
    )


def resolved(options: Mapping[str, Any], student: Network, teacher: Network) -> dict[str, Any]:
    """Options as a trial has them: the layer map as text."""
    counts = len(student.stages), len(teacher.stages)
    maps = {
        name: text for name, text in options.items() if name == "layer_map" and text != layer_map.EMBEDDING
    }
    return {
        **options,
        **{name: layer_map.to_text(layer_map.parse(text, *counts)) for name, text in maps.items()},
    }


class Case:
    """One method between two networks: its term, built with a fixed seed, and the loss of its trial."""

    def __init__(
        self,
        key: str,
        student: Network = SMALL,
        teacher: Network = WIDE,
        dtype: torch.dtype = torch.float64,
        trial_temperature: float = 3.0,
        **changed: Any,
    ) -> None:
        self.key, self.method = key, METHODS[key]
        defaults = {name: option.default for name, option in self.method.options.items()}
        options = resolved({**defaults, **changed}, student, teacher)
        self.config = TrialConfig(
            student=Choice("resnet"),
            train=TrainConfig(epochs=NUM_EPOCHS),
            distill={self.method.slot: Choice(key, options)},
            alpha=0.5,
            temperature=trial_temperature,
        )
        context = TermContext(
            student_stages=stages(student),
            teacher_stages=stages(teacher),
            student_features=student.width,
            teacher_features=teacher.width,
            num_classes=NUM_CLASSES,
            scheduled_temperature=lambda epoch: trial_temperature,
            num_samples=NUM_SAMPLES,
            num_epochs=NUM_EPOCHS,
            batch_size=8,
            access=access(student, teacher, dtype),
        )
        torch.manual_seed(5)
        self.terms = build_terms(self.config, context)
        _, self.term = self.terms[self.method.slot]
        self.learned = nn.ModuleList([self.term] if isinstance(self.term, nn.Module) else []).to(dtype)
        getattr(self.term, "prepare", lambda batches: None)([batch()])
        if "indices" in self.method.needs:  # it may remember its samples: let it have something to remember
            earlier = outputs(student, dtype=dtype, seed=8), outputs(teacher, dtype=dtype, seed=9)
            self.value(*earlier, batch())

    def value(self, student: Outputs, teacher: Outputs, of_batch: Batch, epoch: int = LATE) -> Tensor:
        """The method's own loss: the sum of the parts it names."""
        torch.manual_seed(6)  # as a training does at the start of an epoch
        parts = self.term(projected(student, teacher), teacher, of_batch, epoch)
        return torch.stack(list(parts.values())).sum()

    def total(self, student: Outputs, teacher: Outputs, of_batch: Batch, epoch: int = LATE) -> Tensor:
        torch.manual_seed(6)
        student = projected(student, teacher)
        return total_loss(self.config, self.terms, student, teacher, of_batch, epoch)[0]


@pytest.fixture(params=METHODS)
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The entry itself.


def test_the_table_is_sorted() -> None:
    assert list(METHODS) == sorted(METHODS)


def test_entry_is_well_formed(key: str) -> None:
    method = METHODS[key]
    assert method.slot in SLOTS
    assert method.needs
    assert method.needs <= TENSORS | {"labels", "indices"}
    assert ("weight" in method.options) == (method.slot != "response")
    assert method.label_weight is None or method.slot in ("response", "self") or method.deploys
    assert ("layer_map" in method.options) <= bool((TOKENS | {"features", "before"}) & method.needs)
    assert "arXiv" in method.doc


def test_function_of_plain_tensors_has_the_methods_name(key: str) -> None:
    module = import_module(METHODS[key].build.split(":")[0])
    assert module.__name__ == f"kdsearch.losses.{key}"
    assert module.__doc__
    assert "arXiv" in getattr(module, key).__doc__


OPTIONS = [(key, name) for key, method in METHODS.items() for name in method.options]
NUMBERS = [(key, name) for key, name in OPTIONS if METHODS[key].options[name].type in ("float", "int")]


@pytest.mark.parametrize(("key", "name"), NUMBERS)
def test_default_lies_within_the_bounds(key: str, name: str) -> None:
    option = METHODS[key].options[name]
    assert option.low is not None
    assert option.high is not None
    assert option.default is None or option.low <= option.default <= option.high
    assert option.doc


@pytest.mark.parametrize(("key", "name"), [pair for pair in OPTIONS if pair not in NUMBERS])
def test_word_is_one_of_the_choices(key: str, name: str) -> None:
    option = METHODS[key].options[name]
    assert name == "layer_map" or option.default in (option.choices or (True, False))
    assert option.doc


# Gradients.


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_gradient_is_finite_and_reaches_what_the_method_needs(
    key: str, pair: tuple[Network, Network]
) -> None:
    case = Case(key, *pair)
    student, teacher = outputs(pair[0], seed=1), outputs(pair[1], seed=2)
    case.value(student, teacher, batch()).backward()
    grads = gradients(student)
    assert all(grad.isfinite().all() for grad in grads.values())
    expected = read_by(key) - DETACHED.get(key, set())
    assert {name for name, grad in grads.items() if grad.any()} == expected


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_teacher_gets_no_gradient(key: str, pair: tuple[Network, Network]) -> None:
    case = Case(key, *pair)
    teacher = outputs(pair[1], seed=2)
    case.value(outputs(pair[0], seed=1), teacher, batch()).backward()
    assert not any(grad.any() for grad in gradients(teacher).values())


@pytest.mark.parametrize("key", of(spatial=False))
def test_works_on_flat_stages(key: str) -> None:
    case = Case(key, FLAT, FLAT_WIDE)
    student = outputs(FLAT, seed=1)
    case.value(student, outputs(FLAT_WIDE, seed=2), batch()).backward()
    flat = torch.cat(list(gradients(student).values()))
    assert flat.isfinite().all()
    assert flat.any()


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_works_on_small_and_odd_batches(key: str, batch_size: int) -> None:
    case = Case(key)
    student, teacher = outputs(SMALL, batch_size, seed=1), outputs(WIDE, batch_size, seed=2)
    loss = case.total(student, teacher, batch(batch_size))
    loss.backward()
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(student).values())


def test_works_on_mixed_labels(key: str) -> None:
    student = outputs(SMALL, seed=1)
    loss = Case(key).total(student, outputs(WIDE, seed=2), mixed_batch())
    loss.backward()
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(student).values())


OF_KD = {"kd", "mlkd"}  # on the plain view mlkd is mostly kd; what it adds is another view


@pytest.mark.parametrize("key", [key for key in METHODS if key not in OF_KD])
def test_is_not_kd_under_another_name(key: str) -> None:
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    Case(key).value(student, teacher, batch()).backward()
    other = outputs(SMALL, seed=1)
    kd(other.logits, teacher.logits, 3.0).backward()
    directions = [torch.cat(list(gradients(out).values())) for out in (student, other)]
    assert torch.cosine_similarity(*directions, dim=0) < 0.99


def test_following_the_gradient_lowers_the_loss(key: str) -> None:
    case = Case(key)
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    optimizer = torch.optim.Adam([*leaves(student), *case.learned.parameters()], lr=0.01)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = case.value(student, teacher, batch())
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.98 * values[0]


# Values.


@pytest.mark.parametrize("key", of(zero_when_equal=True))
def test_is_zero_where_the_student_equals_the_teacher(key: str) -> None:
    case = Case(key, SMALL, SMALL)
    equal = case.value(outputs(SMALL), outputs(SMALL), batch())
    different = case.value(outputs(SMALL, seed=1), outputs(SMALL), batch())
    assert equal.abs() < 1e-6 * different


@pytest.mark.parametrize("key", of(zero_when_equal=False))
def test_is_not_zero_where_the_student_equals_the_teacher(key: str) -> None:
    assert Case(key, SMALL, SMALL).value(outputs(SMALL), outputs(SMALL), batch()).abs() > 1e-3


def test_float32_has_the_value_of_float64(key: str) -> None:
    values = [
        Case(key, dtype=dtype).value(
            outputs(SMALL, dtype=dtype, seed=1), outputs(WIDE, dtype=dtype, seed=2), batch()
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert [value.dtype for value in values] == [torch.float32, torch.float64]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-4)


def test_parts_are_scalars_named_for_the_method(key: str) -> None:
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    parts = Case(key).term(projected(student, teacher), teacher, batch(), LATE)
    assert all(part.shape == () for part in parts.values())
    assert all(name == key or name.startswith(f"{key}_") for name in parts)


def test_inputs_are_left_as_they_were(key: str) -> None:
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    Case(key).value(student, teacher, batch())
    for out, untouched in ((student, outputs(SMALL, seed=1)), (teacher, outputs(WIDE, seed=2))):
        assert all(torch.equal(*pair) for pair in zip(leaves(out), leaves(untouched), strict=True))


def test_reads_nothing_of_the_teacher_that_it_does_not_declare(key: str) -> None:
    teacher = outputs(WIDE, seed=2)
    dropped = {"logits": None, "features": {}, "embedding": None}
    declared = teacher._replace(
        **{name: dropped[name] for name in FIELDS - METHODS[key].needs},
        details={kind: maps for kind, maps in teacher.details.items() if kind in METHODS[key].needs},
    )
    values = [Case(key).value(outputs(SMALL, seed=1), out, batch()) for out in (teacher, declared)]
    assert torch.equal(*values)


def test_depends_on_the_labels_only_where_declared(key: str) -> None:
    others = dataclasses.replace(batch(), labels=(batch().labels + 1) % NUM_CLASSES)
    values = [
        Case(key).value(outputs(SMALL, seed=1), outputs(WIDE, seed=2), labels) for labels in (batch(), others)
    ]
    assert torch.equal(*values) == ("labels" not in METHODS[key].needs)


def changed(option: Option, name: str) -> Any:
    """Another value that the option allows."""
    if name == "negatives":
        return 5  # there are no more than images of other classes
    if name == "layer_map":
        return {"last": "all"}.get(option.default, "skip")
    if option.type == "bool":
        return not option.default
    if option.choices is not None:
        return next(choice for choice in option.choices if choice != option.default)
    assert option.low is not None
    assert option.high is not None
    default = 1.0 if option.default is None else option.default
    value = (default + min(option.high, max(2 * default, 1))) / 2
    value = value if value != default else (default + option.low) / 2
    return value if option.type == "float" else max(option.low, min(option.high, round(value + 0.5)))


@pytest.mark.parametrize(("key", "name"), OPTIONS)
def test_every_option_changes_the_loss(key: str, name: str) -> None:
    other = changed(METHODS[key].options[name], name)
    assert other != METHODS[key].options[name].default
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    default, with_other = Case(key), Case(key, **{name: other})
    values = []
    for case in (default, with_other):
        early, midway = (case.total(student, teacher, batch(), epoch) for epoch in (1, NUM_EPOCHS // 3))
        early.backward()
        slopes = [p.grad.abs().sum().item() for p in case.learned.parameters() if p.grad is not None]
        values.append([early.item(), midway.item(), sum(slopes)])  # some only change how a part learns
    assert values[0] != pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("key", [key for key in of(slot="response") if key not in WITHOUT_TEMPERATURE])
def test_temperature_changes_a_response(key: str) -> None:
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    soft = {"hard": False} if "hard" in METHODS[key].options else {}
    values = [
        Case(key, trial_temperature=t, **soft).value(student, teacher, batch()).item() for t in (2.0, 3.0)
    ]
    assert values[0] != pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("key", of(slot="response"))
def test_alpha_weighs_a_response(key: str) -> None:
    case = Case(key)
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    value = case.value(student, teacher, batch())
    case.config = dataclasses.replace(case.config, label_weight=0.0)
    torch.testing.assert_close(case.total(student, teacher, batch()), 0.5 * value)


# Learned parts.


def test_learned_methods_and_only_they_bring_parameters(key: str) -> None:
    assert any(True for _ in Case(key).learned.parameters()) == METHODS[key].learned


@pytest.mark.parametrize("key", of(learned=True))
def test_every_learned_parameter_gets_a_gradient(key: str) -> None:
    case = Case(key)
    case.value(outputs(SMALL, seed=1), outputs(WIDE, seed=2), batch()).backward()
    trained = [parameter for parameter in case.learned.parameters() if parameter.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("key", of(learned=True))
def test_learned_parts_start_from_the_global_seed(key: str) -> None:
    first, second = Case(key).learned.state_dict(), Case(key).learned.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("key", of(learned=True))
def test_learned_parts_resume_from_their_state(key: str) -> None:
    trained = Case(key)
    student, teacher = outputs(SMALL, seed=1), outputs(WIDE, seed=2)
    optimizer = torch.optim.SGD(trained.learned.parameters(), lr=0.1)
    trained.value(student, teacher, batch()).backward()
    optimizer.step()
    restored = Case(key)
    restored.learned.load_state_dict(trained.learned.state_dict())
    values = [case.value(student, teacher, batch()) for case in (trained, restored)]
    assert torch.equal(*values)


def test_method_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["kd"].slot = "feature"  # type: ignore[misc]  # that it cannot be set is what is tested
