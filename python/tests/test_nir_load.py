"""Graphs of other programs become networks where their nodes mean the same, and say which node does not; damaged files say so."""

import json

import numpy
import pytest
from conftest import made

import dsr

nir = pytest.importorskip("nir")
import h5py  # noqa: E402

T = 8
RNG = numpy.random.default_rng(11)


def uniform(*shape):
    """Multiples of 1/256, which the rounding of weights to 15 bits keeps."""
    return RNG.integers(-128, 129, shape) / 256


def conv(out, into, kernel=3, **other):
    other = {"stride": 1, "padding": kernel // 2, "dilation": 1, "groups": 1, **other}
    return nir.Conv2d(input_shape=None, weight=uniform(out, into, kernel, kernel), bias=uniform(out), **other)


def neurons(kind, shape, threshold=1.0, **other):
    one = numpy.ones(shape)
    if kind == "if":
        return nir.IF(**{"r": one, "v_threshold": threshold * one, "v_reset": 0 * one, **other})
    return nir.LIF(**{"tau": 4e-4 * one, "r": one, "v_leak": 0 * one, "v_threshold": threshold * one, "v_reset": 0 * one, **other})


def pool(kind, window, stride=None, pad=0):
    pairs = [numpy.array([n, n]) for n in (window, window if stride is None else stride, pad)]
    return kind(kernel_size=pairs[0], stride=pairs[1], padding=pairs[2])


def parts(kind="if"):
    """A network with all that is understood: two branches, both pools, Flatten, Affine and Linear."""
    nodes = {
        "input": nir.Input({"input": numpy.array([2, 8, 8])}),
        "c1": conv(4, 2),
        "n1": neurons(kind, (4, 8, 8), 0.5),
        "avg": pool(nir.AvgPool2d, 2),
        "c2": conv(6, 4, 3, stride=2),
        "sum": pool(nir.SumPool2d, 2),
        "c3": conv(6, 4, 1, stride=2),
        "n2": neurons(kind, (6, 2, 2), 0.75),
        "flat": nir.Flatten(input_type={"input": numpy.array([6, 2, 2])}, start_dim=0, end_dim=2),
        "fc1": nir.Affine(weight=uniform(10, 24), bias=uniform(10)),
        "n3": neurons(kind, (10,), 1.0),
        "fc2": nir.Linear(weight=uniform(3, 10)),
        "n4": neurons(kind, (3,), 0.5),
        "output": nir.Output({"output": numpy.array([3])}),
    }
    way = "input c1 n1 avg c2 n2 flat fc1 n3 fc2 n4 output".split()
    return nodes, [*zip(way, way[1:], strict=False), ("n1", "sum"), ("sum", "c3"), ("c3", "n2")]


def graph_of(nodes, edges, **metadata):
    return nir.NIRGraph(nodes, edges, metadata, type_check=False)


def images(batch=20, shape=(2, 8, 8)):
    return (numpy.random.default_rng(3).integers(-64, 65, (batch, *shape)) / 32).astype(numpy.float32)


def subtracting(graph):
    """The same graph for the interpreter, which heeds metadata."""
    for node in graph.nodes.values():
        if isinstance(node, nir.IF | nir.LIF):
            node.metadata = {"reset": "subtract"}
    return graph


@pytest.mark.parametrize("ends", ["neurons", "weights"])
@pytest.mark.parametrize("kind", ["if", "lif"])
def test_a_graph_of_another_program(kind, ends, tmp_path):
    nodes, edges = parts(kind)
    if ends == "weights":
        del nodes["n4"]
        edges = [("fc2", "output") if edge == ("fc2", "n4") else edge for edge in edges if edge[0] != "n4"]
    graph = nir.NIRGraph(nodes, edges, {})
    nir.write(tmp_path / "net.nir", graph)
    net = dsr.nir.load(tmp_path / "net.nir", T, reset="subtract")
    assert (net.neuron, net.time_steps, net.input_shape, len(net.classes)) == (kind, T, (2, 8, 8), 3)
    ours = net(images(), spikes=True)
    found = dsr.nir.run(subtracting(graph), images(), T)
    assert list(ours.spikes) == list(found.spikes)
    total = sum(trains.size for trains in found.spikes.values())
    wrong = sum(int((trains.reshape(-1) != found.spikes[name].reshape(-1)).sum()) for name, trains in ours.spikes.items())
    # Weights over the value of a spike are rounded to 15 bits.
    assert wrong <= 1e-3 * total and 0.05 < sum(trains.sum() for trains in found.spikes.values()) / total < 0.95
    if ends == "weights":
        steps = net.graph()["neuron"]["step_weights"]
        assert numpy.allclose(numpy.tensordot(steps, found.outputs, 1), ours.logits, atol=0.05)


def test_dialects_of_leak_and_resistance():
    nodes, edges = parts("lif")
    graph = graph_of(nodes, edges)
    leak = dsr.nir.load(graph, T, reset="subtract").graph()["neuron"]["leak"]
    assert numpy.isclose(leak, numpy.exp(-0.25))
    assert numpy.isclose(dsr.nir.load(graph, T, reset="subtract", step="euler").graph()["neuron"]["leak"], 0.75)
    assert numpy.isclose(dsr.nir.load(graph, T, reset="subtract", dt=2e-4).graph()["neuron"]["leak"], numpy.exp(-0.5))
    nodes, edges = parts("if")
    logits = dsr.nir.load(graph_of(nodes, edges), T, reset="subtract")(images()).logits
    for name in ("n1", "n2", "n3", "n4"):
        nodes[name].r = nodes[name].r * 1e4
    assert numpy.array_equal(dsr.nir.load(graph_of(nodes, edges), T, reset="subtract")(images()).logits, logits)


@pytest.mark.parametrize("form", ["exact", "shifted"])
@pytest.mark.parametrize("neuron", ["if", "lif"])
def test_forms_are_understood_without_their_structure(neuron, form):
    net = made(neuron=neuron, time_steps=6)
    graph = dsr.nir.graph(net, form)
    del graph.metadata["structure"]
    again = dsr.nir.load(graph)
    pictures = numpy.random.default_rng(4).standard_normal((50, 1, 8, 8), dtype=numpy.float32)
    ours, theirs = (of(pictures, spikes=True).spikes for of in (net, again))
    wrong = sum(int((trains != theirs[name.replace(".", "_")]).sum()) for name, trains in ours.items())
    assert wrong <= 2e-3 * sum(trains.size for trains in ours.values())


def changed(**new):
    """Parts with other nodes."""

    def change(nodes, edges):
        nodes.update(new)

    return change


def edge(*pairs):
    def change(nodes, edges):
        edges.extend(pairs)

    return change


def without(*names):
    def change(nodes, edges):
        for name in names:
            del nodes[name]
        edges[:] = [pair for pair in edges if pair[0] not in names and pair[1] not in names]

    return change


one, flat = numpy.ones((4, 8, 8)), numpy.ones(10)
WRONG = [
    (changed(n1=neurons("lif", (4, 8, 8))), "node 'n2': leak 1, and 'n1' has 0.7788"),
    (changed(n1=nir.CubaLIF(tau_syn=one, tau_mem=one, r=one, v_leak=one, v_threshold=one)), "node 'n1': CubaLIF is nothing"),
    (changed(n1=neurons("if", (4, 8, 8), r=3 * one)), "node 'n1': r = 3; an integrator here"),
    (changed(n1=neurons("if", (4, 8, 8), v_reset=-one)), "node 'n1': v_reset is not 0"),
    (changed(n1=neurons("if", (4, 8, 8), 0.0)), "node 'n1': threshold 0, firing at 0"),
    (changed(n3=neurons("if", (10,), v_threshold=numpy.arange(1.0, 11))), "node 'n3': v_threshold differs between neurons, from 1 to 10"),
    (changed(n3=nir.I(r=flat)), "node 'n3': is an integrator without a Threshold"),
    (changed(c1=conv(4, 2, groups=2)), "node 'c1': has groups or a dilation"),
    (changed(c1=conv(4, 2, dilation=2)), "node 'c1': has groups or a dilation"),
    (changed(c1=conv(4, 2, padding="same")), "node 'c1': padding 'same'"),
    (changed(c1=conv(4, 2, stride=(1, 2))), "node 'c1': kernel, stride or padding is not square"),
    (changed(c1=conv(4, 3)), r"node 'c1': weights of shape \(4, 3, 3, 3\)"),
    (changed(c1=conv(4, 2, 11, padding=0)), "node 'c1': a kernel of 11"),
    (changed(fc1=nir.Affine(weight=uniform(10, 25), bias=uniform(10))), r"node 'fc1': weights of shape \(10, 25\)"),
    (changed(fc1=nir.Affine(weight=uniform(10, 24), bias=uniform(9))), "node 'fc1': weights of shape"),
    (changed(avg=pool(nir.AvgPool2d, 16)), "node 'n2': a pool before it leaves nothing"),
    (changed(flat=pool(nir.AvgPool2d, 2), avg=conv(4, 4)), "node 'c2': stands behind the weights of 'avg'"),
    (changed(fc2=nir.Scale(scale=flat[:3])), "node 'fc2': Scale is nothing that a network here has"),
    (changed(c3=conv(6, 4, 1)), r"node 'n2': its two inputs have the shapes \(6, 2, 2\) and \(6, 4, 4\)"),
    (edge(("n1", "n2")), "node 'n2': has 3 inputs; one or two are summed"),
    (edge(("input", "c2")), "node 'c2': has 2 inputs, and one is understood"),
    (edge(("n4", "n3")), "node 'n3': lies on a cycle"),
    (edge(("n4", "gone")), "an edge joins 'n4' and 'gone'"),
    (without("input"), "has 0 nodes for input"),
    (without("n1", "n2", "n3", "n4"), "has no IF or LIF neurons"),
    (
        changed(output=nir.Output({"output": numpy.array([3])}), n4=neurons("if", (3,)), more=nir.Output({"output": flat})),
        "has 2 nodes for output",
    ),
]


@pytest.mark.parametrize("change, words", WRONG, ids=[words.split(":")[0] + str(at) for at, (_, words) in enumerate(WRONG)])
def test_a_node_that_means_something_else_is_named(change, words):
    nodes, edges = parts()
    change(nodes, edges)
    with pytest.raises(ValueError, match="graph: " + words):
        dsr.nir.load(graph_of(nodes, edges), T, reset="subtract")


def test_resets_and_steps_are_not_guessed():
    graph = graph_of(*parts())
    with pytest.raises(ValueError, match="node 'n1': is reset to v_reset, by NIR; neurons here subtract .*pass reset='subtract'"):
        dsr.nir.load(graph, T)
    with pytest.raises(ValueError, match="does not say how many time steps; pass time_steps"):
        dsr.nir.load(graph, reset="subtract")
    with pytest.raises(ValueError, match="time-steps: 0 is not in 1..=255"):
        dsr.nir.load(graph, 0, reset="subtract")
    with pytest.raises(ValueError, match="reset: 'zero' is not 'subtract'"):
        dsr.nir.load(graph, T, reset="zero")
    with pytest.raises(ValueError, match="step: 'exact' is neither"):
        dsr.nir.load(graph, T, reset="subtract", step="exact")


def test_damaged_files_say_so(tmp_path):
    path = tmp_path / "net.nir"
    with pytest.raises(FileNotFoundError, match="net.nir: there is no such file"):
        dsr.nir.load(path)
    net = made()
    dsr.nir.export(net, path)
    whole = path.read_bytes()
    for damaged in (b"", b"no file of this kind", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="net.nir: is no NIR graph: .*; export it again"):
            dsr.nir.load(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/relu1_conv0/weight"]
        file["node/nodes/relu1_conv0"].create_dataset("weight", (1 << 20, 1 << 20, 3, 3), "f8", chunks=True)
    with pytest.raises(ValueError, match=r"net.nir: node/nodes/relu1_conv0/weight promises \d+ bytes, and 0 are there; get the file again"):
        dsr.nir.load(path)


DAMAGE = [
    lambda about: about.update(structure="{"),
    lambda about: about.update(structure="[]"),
    lambda about: about.pop("state"),
    lambda about: about.pop("factors"),
    lambda about: about["state"].pop("relu1.Vth"),
    lambda about: about["state"].update(other=1.0),
    lambda about: about["state"].update({"relu1.Vth": float("nan")}),
    lambda about: about.update(structure=about["structure"].replace('"linear"', '"lineal"')),
    lambda about: about.update(structure=about["structure"].replace('"node"', '"nod"')),
    lambda about: about.update(structure=json.dumps({**json.loads(about["structure"]), "layers": [7]})),
    lambda about: about.update(structure=json.dumps({**json.loads(about["structure"]), "classes": ["one"]})),
    lambda about: about.update(structure=json.dumps({**json.loads(about["structure"]), "time_steps": 1 << 40})),
    lambda about: about.update(structure=json.dumps({**json.loads(about["structure"]), "neuron": {"kind": "lif", "alpha": "x"}})),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_structures_say_so(damage):
    graph = dsr.nir.graph(made())
    damage(graph.metadata)
    with pytest.raises(ValueError, match="^graph: "):
        dsr.nir.load(graph)


@pytest.mark.parametrize("structured", [True, False])
def test_sizes_that_no_network_has_are_refused(structured):
    for shape in [(1, 1 << 40, 1 << 40), (1, 1 << 62, 1), (-1, 8, 8), (0, 8, 8), (1 << 40, 8, 8), (1, 60000, 60000)]:
        graph = dsr.nir.graph(made())
        graph.nodes["input"].input_type = {"input": numpy.array(shape)}
        if not structured:
            del graph.metadata["structure"]
        with pytest.raises(ValueError, match="^graph: "):
            dsr.nir.load(graph)
    for key in ("pad", "stride"):
        graph = dsr.nir.graph(made())
        structure = json.loads(graph.metadata["structure"])
        structure["layers"][1]["connections"][0][key] = 1 << 60
        graph.metadata["structure"] = json.dumps(structure)
        with pytest.raises(ValueError, match=r"graph: 'layer1.0.relu2' has a size, stride, padding or pool in .* not in 0..=65536"):
            dsr.nir.load(graph)


def test_any_byte_may_be_wrong(tmp_path):
    """A file with changed bytes is taken or refused by a ValueError, and nothing else."""
    path = tmp_path / "net.nir"
    dsr.nir.export(made(), path)
    whole = path.read_bytes()
    rng = numpy.random.default_rng(9)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 20):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            dsr.nir.load(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert refused > 20
