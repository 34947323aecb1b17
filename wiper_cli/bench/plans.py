"""The tables and figures by name, as literal data. Imports no torch.

Tables 1 to 6 are numbered as in the main text, 7 to 10 as in the appendix, whose own Tables 3 and 4 are
``appendix3`` and ``appendix4``. Figures are numbered as in the appendix, which counts the three of the main
text that share the number 2 as 3, 5 and 8.
"""

from collections.abc import Mapping

from wiper_cli.bench.cells import DEFAULT, Cell
from wiper_cli.bench.matrix import Attack, Grid, Table, Treatment, cells_of
from wiper_cli.nearest import nearest
from wiper_cli.purifiers import METHODS
from wiper_cli.salience import METRICS
from wiper_cli.verdict import Problem

BADNET, BLEND = Attack("BadNet", "badnet"), Attack("BA", "blend")
SIG_DIRTY = Attack("SIG, labels changed", "sinusoid", "SIG", "dirty")
#: IA in the paper's source has a fixed noise and one fitted to a model; the paper does not say which.
SIX = (
    BADNET, BLEND, Attack("ETA", "eta"), Attack("IA", "ia"), Attack("SIG", "sinusoid"),
    Attack("TrojanNN", "trojannn"),
)  # fmt: skip
TEN = (
    *SIX, Attack("IMC", "imc"), Attack("WaveNet", "wanet"), Attack("SSA", "issba"),
    Attack("LogitAttack", "logit-attack"),
)  # fmt: skip
#: Rows that the paper does not tell apart; its numbers stand beside both.
VARIANTS = (Attack("IA, fixed noise", "regular", "IA"), SIG_DIRTY)
BENCHMARK = (
    Attack("BadNets", "badnet"), Attack("Blended", "blend"), Attack("LC", "label-consistent"),
    Attack("SIG", "sinusoid"), Attack("LF", "low-frequency"), Attack("SSBA", "issba"),
    Attack("Input-aware", "input-aware"), Attack("WaNet", "wanet"), Attack("BppAttack", "bpp"),
    Attack("FTrojan", "ftrojan"),
)  # fmt: skip
#: What ablations are made on: a small patch, a picture over the whole image, a signal, a warp.
FOUR = (BADNET, BLEND, SIG_DIRTY, Attack("WaNet", "wanet"))
NONE = Attack("no backdoor", "clean")

BEFORE = Treatment("Before")
BASELINES = (
    Treatment("Fine-tuning", "fine-tuning"), Treatment("KD", "kd"), Treatment("NAD", "nad"),
    Treatment("Fine-Pruning", "fine-pruning"), Treatment("IBAU", "i-bau"), Treatment("WIPER", "wiper"),
)  # fmt: skip
#: The paper's baselines as benchmarks set them, WIPER with a stronger penalty, and every other method as it comes.
OTHERS = (
    *(Treatment(f"{name}, field", name, "field") for name in ("fine-tuning", "nad", "fine-pruning", "i-bau")),
    Treatment("wiper, strong", "wiper", "strong"),
    *(Treatment(name, name, DEFAULT) for name, kind in METHODS.items()
      if kind.claims_removal and name not in ("fine-tuning", "kd", "nad", "fine-pruning", "i-bau", "wiper")),
)  # fmt: skip
COMPARED = tuple(name for name, metric in METRICS.items() if metric.compared)
FULL = ("acc", "asr", "ra", "der")
#: Clean images by name, 0 being all: the zoo sets aside 5 %, which is 2,500 images of CIFAR-10. Figures 5 to 7 of the
#: paper go from 1 to 20 %.
COUNTS = {"50 images": 50, "125 images": 125, "500 images": 500, "5 %": 0}


def _told(
    title: str,
    attacks: tuple[Attack, ...],
    treatments: tuple[Treatment, ...],
    measures: tuple[str, ...] = FULL,
    text: str = "ACC / ASR / RA / DER.",
    **rest: str,
) -> Grid:
    """Attacks side by side, every measure of a place in one column."""
    return Grid(title, attacks, treatments, measures, across=True, split=False, text=text, **rest)


def _printed(
    name: str, treatments: tuple[Treatment, ...], attacks: tuple[Attack, ...] = SIX, data: str = "cifar10"
) -> Grid:
    return Grid("As in the paper", attacks, treatments, data=data, across=True, printed=name)


def _metrics(*names: str) -> tuple[Treatment, ...]:
    return tuple(Treatment(METRICS[name].title, name, kind="salience") for name in names)


def _compared(number: int, data: str, title: str) -> Table:
    """Tables 1 to 3: attacks by defences, and then every defence there is."""
    key = f"table{number}"
    return Table(
        key,
        title,
        (
            Grid("As in the paper", TEN + VARIANTS, (BEFORE, *BASELINES), data=data, printed=key),
            _told("Every defence", TEN + VARIANTS, (BEFORE, *BASELINES, *OTHERS), data=data),
        ),
    )


def _strategies(name: str, data: str, pruning: str, purifying: str) -> Table:
    """Tables 4, 9 and 10: what is done to the units, and what chooses them. "Pruning" of the last two has the numbers
    of Fine-Pruning in Tables 1 and 3, so it is that; pruning without training stands below."""
    treatments = (
        BEFORE,
        *(
            Treatment(f"{pruning} + {m.upper()}", "fine-pruning", settings={"metric": m})
            for m in ("am", "bs")
        ),
        Treatment(f"{purifying} + AM", "wiper", settings={"metric": "am"}),
        Treatment(f"{purifying} + BS", "wiper"),
        *(Treatment(f"Pruning alone + {m.upper()}", "prune", settings={"metric": m}) for m in ("am", "bs")),
    )
    title = f"Pruning and purifying, by AM and by BS, on {data}"
    return Table(name, title, (_printed(name, treatments, data=data),))


def _ratios(number: int, data: str) -> Table:
    treatments = tuple(
        Treatment(f"{one.title}, {words}", one.name, one.preset, images=count)
        for one in BASELINES
        for words, count in COUNTS.items()
    )
    text = (
        "ACC / ASR. The paper goes from 1 to 20 % of the training set; the zoo sets aside 5 %, 2,500 images."
    )
    grid = _told("By the number of clean images", SIX, treatments, ("acc", "asr"), text, data=data)
    return Table(f"figure{number}", f"Defences by the number of clean images, on {data}", (grid,), "ratios")


def _regularisers(number: int, data: str) -> Table:
    treatments = tuple(
        Treatment(title, "wiper", settings={"regulariser": key, "epochs": 20}, watch=True)
        for title, key in (("L1", "l1"), ("L2", "l2"), ("AR", "ar"))
    )
    text = (
        "After 20 epochs, as the figure's; it shows every epoch. The paper reads from its figure that AR needs "
        "about 2 epochs and L1 and L2 more than 15."
    )
    grid = Grid("Regularisation", SIX, treatments, data=data, across=True, text=text)
    return Table(f"figure{number}", f"WIPER with L1, L2 and AR on {data}", (grid,), "regularisers")


def _units(name: str, title: str, metrics: tuple[str, ...]) -> Table:
    measures = ("precision10", "precision50", "with_change", "rank_correlation")
    grid = Grid("The order of the units", (BADNET,), _metrics(*metrics), measures, across=True)
    return Table(name, title, (grid,), "units")


def _wiper(title: str, preset: str = "paper", **settings: object) -> Treatment:
    return Treatment(title, "wiper", preset, settings)


def _ablation(title: str, treatments: tuple[Treatment, ...], text: str = "ACC / ASR / RA / DER.") -> Grid:
    return _told(title, FOUR, (BEFORE, *treatments), text=text)


def _each(variations: tuple[tuple[str, dict[str, object]], ...]) -> tuple[Treatment, ...]:
    """WIPER as printed, WIPER strong, fine-tuning and unlearning, each in every variation."""
    bases = (
        Treatment("WIPER", "wiper"),
        Treatment("WIPER, strong", "wiper", "strong"),
        Treatment("fine-tuning", "fine-tuning", DEFAULT),
        Treatment("unlearn", "unlearn", DEFAULT),
    )
    return tuple(
        Treatment(f"{one.title}, {words}", one.name, one.preset, **fields)  # type: ignore[arg-type]
        for one in bases
        for words, fields in variations
    )


ABLATIONS = (
    _ablation(
        "Which weights are trained, and what the loss is",
        (
            _wiper("as printed"),
            _wiper("the head alone", train="head"),
            _wiper("cross-entropy as a sum", reduction="sum"),
            _wiper("cross-entropy as a sum, the head alone", reduction="sum", train="head"),
            _wiper("single weights, not units", granularity="weight"),
            _wiper("salience renewed once an epoch", update="epoch"),
            _wiper("50 epochs", epochs=50),
            _wiper("strong", "strong"),
            _wiper("strong, the head alone", "strong", train="head"),
        ),
    ),
    _ablation(
        "Penalty: alpha, beta, eta, regulariser",
        (
            *(_wiper(f"alpha {a:g}", alpha=a) for a in (0.0, 0.001, 0.01, 0.1, 1.0)),
            *(_wiper(f"alpha {a:g}, momentum 0.9", alpha=a, momentum=0.9) for a in (0.0, 0.01, 0.1)),
            *(_wiper(f"beta {b:g}", "strong", beta=b) for b in (0.1, 0.9)),
            *(_wiper(f"eta {e:g}", "strong", eta=e) for e in (0.0, 0.5)),
            *(_wiper(f"{r.upper()}", "strong", regulariser=r) for r in ("l1", "l2")),
        ),
        "ACC / ASR / RA / DER. Lines from beta on are of the preset strong.",
    ),
    _ablation("Clean images", _each(tuple((words, {"images": n}) for words, n in COUNTS.items()))),
    _ablation(
        "Labels: the folder's, or the model's own predictions",
        _each((("labels", {}), ("no labels", {"labels": "model"}))),
    ),
    _ablation(
        "Kinds of files: batch norm frozen or folded",
        _each(
            (
                ("safetensors, frozen", {}),
                ("TorchScript, frozen", {"file": "model.pt"}),
                ("TorchScript, folded", {"file": "model-folded.pt"}),
                ("ONNX, frozen", {"file": "model-live.onnx"}),
                ("ONNX, folded", {"file": "model.onnx"}),
            )
        ),
    ),
    _ablation(
        "Batch norm live: trained with its statistics, as the methods were published",
        tuple(
            Treatment(f"{one}, {preset}, {words}", one, preset, live=live)
            for one, preset in (
                ("fine-tuning", "paper"),
                ("fine-tuning", "field"),
                ("nad", "paper"),
                ("nad", "field"),
                ("fine-pruning", "paper"),
                ("wiper", "paper"),
                ("wiper", "strong"),
                ("ft-sam", DEFAULT),
                ("fst", DEFAULT),
                ("anp", DEFAULT),
                ("anp", "field"),
                ("rnp", "paper"),
                ("lmr", DEFAULT),
            )
            for words, live in (("frozen", False), ("live", True))
        ),
    ),
    _told(
        "Metrics: how good is the order of the units?",
        FOUR,
        _metrics(*COMPARED),
        ("precision10", "precision50", "with_change", "with_bs", "rank_correlation", "overlap"),
        "Share of the lowest 10 and 50 % that are among as many that the trigger changes most (chance: 10 and 50) / "
        "rank correlation with minus that change / with BS / between two halves of the images / overlap of the "
        "lowest half between them (chance: 50).",
    ),
    _told(
        "Weights: how far they move, and how many exceed 1",
        FOUR,
        (_wiper("WIPER"), _wiper("WIPER, strong", "strong"), _wiper("L1", regulariser="l1")),
        ("moved", "head_moved", "over_one"),
        "Largest |w - w0| of any weight / of the head's / weights of the head over 1. AR is L1 up to 1.",
    ),
    _told(
        "As beta decays: every epoch watched",
        FOUR,
        (Treatment("WIPER", "wiper", watch=True), Treatment("WIPER, strong", "wiper", "strong", watch=True)),
        ("low_before", "low_least", "low_after"),
        "Mean |w| of the head over the units of least salience at first: before / at its least / at the end.",
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _compared(1, "svhn", "Defences by attacks on SVHN"),
        _compared(2, "cifar10", "Defences by attacks on CIFAR-10"),
        _compared(3, "cifar100", "Defences by attacks on CIFAR-100"),
        _strategies("table4", "cifar10", "Fine-Pruning", "Ours"),
        Table(
            "table5",
            "WIPER by alpha on CIFAR-10",
            (
                _printed(
                    "table5", tuple(_wiper(f"alpha {a:g}", alpha=a) for a in (0.001, 0.005, 0.01, 0.05, 0.1))
                ),
            ),
        ),
        Table(
            "table6",
            "WIPER by the layers purified, on CIFAR-10",
            (
                _printed(
                    "table6",
                    (
                        _wiper("FC only", last_layers=1),
                        *(_wiper(f"FC + {n - 1} Conv", last_layers=n) for n in range(2, 6)),
                    ),
                ),
            ),
        ),
        _strategies("table9", "svhn", "Pruning", "Purifying"),
        _strategies("table10", "cifar100", "Pruning", "Purifying"),
        Table(
            "appendix3",
            "What chooses the units: result and time",
            (
                _printed(
                    "appendix3",
                    (
                        _wiper("BS"),
                        _wiper("Integrated Gradient", metric="integrated-gradients"),
                        _wiper("Shapley Value", metric="shapley"),
                    ),
                    (BADNET,),
                ),
                Grid(
                    "Time on features at hand",
                    (BADNET,),
                    (
                        Treatment("BS", "bs", kind="salience"),
                        Treatment("Integrated Gradient", "integrated-gradients", kind="salience"),
                        Treatment("Shapley Value", "shapley", kind="salience"),
                    ),
                    ("metric_seconds", "forward_seconds"),
                    across=True,
                    text="The paper's times relative to BS: 1.00, 10.76, 968.17.",
                ),
            ),
        ),
        Table(
            "appendix4",
            "AI-Lancet and WIPER",
            (
                Grid(
                    "As in the paper",
                    (BADNET, BLEND, Attack("ETA", "eta"), Attack("SSA", "issba")),
                    (Treatment("AI-Lancet", "ai-lancet"), Treatment("WIPER", "wiper")),
                    printed="appendix4",
                ),
            ),
        ),
        Table("figure1", "Penalties on a weight", (), "penalties"),
        _units(
            "figure3", "BS and AM of every unit on clean and triggered images, and attention", ("bs", "am")
        ),
        _units("figure4", "Gradient magnitude of every unit on clean and triggered images", ("gradient",)),
        *(_ratios(number, data) for number, data in ((5, "cifar10"), (6, "svhn"), (7, "cifar100"))),
        *(_regularisers(number, data) for number, data in ((8, "cifar10"), (9, "svhn"), (10, "cifar100"))),
        Table(
            "field",
            "Today's attacks and defences on CIFAR-10, beside published numbers",
            (
                _told(
                    "Beside published numbers",
                    BENCHMARK,
                    (
                        BEFORE,
                        *(
                            Treatment(title, title.lower(), "field")
                            for title in ("Fine-tuning", "Fine-Pruning", "NAD", "I-BAU", "ANP", "SAU")
                        ),
                    ),
                    ("acc", "asr", "ra"),
                    "ACC / ASR / RA.",
                    printed="field",
                ),
                _told("Every defence", BENCHMARK, (BEFORE, *BASELINES, *OTHERS)),
            ),
        ),
        Table("ablations", "What the paper leaves open", ABLATIONS),
        Table(
            "cost",
            "What a method costs",
            (
                _told(
                    "Methods: a model without a backdoor, and one with",
                    (NONE, BADNET),
                    (*BASELINES, *OTHERS),
                    ("acc_lost", "seconds", "images_seen", "speed", "memory"),
                    "Points of ACC lost / seconds / images forward / images a second / MB at most.",
                ),
                Grid(
                    "Metrics",
                    (BADNET,),
                    _metrics(*COMPARED),
                    ("metric_seconds", "forward_seconds"),
                    across=True,
                    text="Seconds on features at hand, and of the forward pass that gives them.",
                ),
            ),
        ),
    )
}
#: The same table or figure under another of its numbers.
ALIASES: Mapping[str, str] = {
    "table7": "table1", "table8": "table3", "figure2": "figure3", "appendix5": "table6", "appendix6": "table5",
    "appendix7": "table1", "appendix8": "table3", "appendix9": "table9", "appendix10": "table10",
}  # fmt: skip


def drawn(cell: Cell, scale: str) -> bool:
    """Whether a figure at this scale shows the units of a cell one by one."""
    tables = (table for table in TABLES.values() if table.drawn == "units")
    return any(cell in cells_of(table, scale, (cell.seed,), cell.test_images) for table in tables)


def find(name: str) -> Table:
    """The table or figure of that name or number; raises :class:`Problem` with the nearest name."""
    key = ALIASES.get(name, name)
    if key not in TABLES:
        offered = sorted({*TABLES, *ALIASES})
        raise Problem(
            f"There is no table or figure {name!r}{nearest(name, offered)}; there are {', '.join(offered)}."
        )
    return TABLES[key]
