from wiper_cli.purifiers import METHODS


def test_the_papers_numbers():
    wiper = METHODS["wiper"](**METHODS["wiper"].presets["paper"])
    assert (wiper.alpha, wiper.beta, wiper.eta) == (0.01, 0.5, 0.9)
    assert (wiper.lr, wiper.momentum, wiper.batch, wiper.epochs) == (0.01, 0.0, 128, 10)
    assert (wiper.regulariser, wiper.last_layers) == ("ar", 1)


def test_the_numbers_of_the_papers_rivals():
    def of(name, preset="paper"):
        return METHODS[name](**METHODS[name].presets[preset])

    assert (of("fine-tuning").lr, of("fine-tuning").schedule, of("fine-tuning").weight_decay) == (
        0.1,
        "constant",
        1e-4,
    )
    assert (of("fine-pruning").share, of("fine-pruning").metric) == (0.1, "am")
    assert (of("kd").hard, of("kd").temperature, of("kd").epochs) == (0.5, 2.0, 50)
    assert (of("nad").lr, of("nad").schedule, of("nad").epochs, of("nad").momentum) == (0.1, "step", 10, 0.9)
    assert of("i-bau").radius == 10.0
    assert of("clp").deviations == 3.0
    assert {of(name, "field").lr for name in ("fine-tuning", "fine-pruning", "kd", "nad")} == {0.01}
