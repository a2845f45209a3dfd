//! Images, and gradients of logits, that another program has put on the network's device: the bits of those of the host.

#[path = "support/device.rs"]
mod device;
#[path = "support/forward_bits.rs"]
mod forward_bits;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use dsr::data::Pixels;
use dsr::device::{Device, Pinned, Slice};
use dsr::network::{Input, LogitsGradient, Mode, Network, Samples, WeightGradient};
use dsr::ops::augment::{OnDevice, Strided};
use dsr::ops::optimizer::{Optimizer, Rule};
use emulator::Streams;
use forward_bits::{assert_same, bits};
use small_networks::TRAIN;

/// `[B][frames][H][W][C]` with channels first, and the order of the axes that makes the former of the latter.
fn channels_first<T: Copy>(values: &[T], [height, width, channels]: [usize; 3]) -> Vec<T> {
    let image = |image: &[T]| -> Vec<T> {
        (0..channels).flat_map(|c| (0..height * width).map(move |p| (c, p))).map(|(c, p)| image[p * channels + c]).collect()
    };
    values.chunks_exact(height * width * channels).flat_map(image).collect()
}

/// An array `[B][frames][C][H][W]` as `[B][frames][H][W][C]`.
fn turned<T: bytemuck::Pod>(memory: Slice<T>, [batch, frames]: [usize; 2], [height, width, channels]: [usize; 3]) -> Strided<T> {
    let image = (height * width * channels) as i64;
    let steps = [image * frames as i64, image, (height * width) as i64, width as i64, 1];
    Strided::new(memory, 0, [batch, frames, channels, height, width], steps).unwrap().with_axes([0, 1, 3, 4, 2])
}

fn placed(network: &Network) -> Network {
    let mut network = network.clone();
    network.place(&Device::Cuda(device::gpu())).unwrap();
    network
}

/// Forward passes of both modes; what writes the images is on its way when the pass begins, in any order of the streams.
#[test]
fn forward_has_the_bits_of_images_of_the_host() {
    let gpu = device::gpu();
    for (number, small) in small_networks::all().into_iter().enumerate() {
        let (network, batch) = (small.network(), small.data());
        let host = channels_first(&batch.data, network.input);
        for (mode, streams) in [(Mode::Eval, Streams::Later), (TRAIN, Streams::CopiesFirst), (Mode::Eval, Streams::Random(number as u64))] {
            let (mut of_host, mut of_device) = (placed(&network), placed(&network));
            let forward = of_host.forward(&batch.input(), mode, |_| true).unwrap();
            let expected = bits(&of_host, &forward);
            let memory = gpu.zeroed::<f32>(host.len()).unwrap();
            let mut written = Pinned::alloc(&gpu, host.len()).unwrap();
            written.as_mut_slice().unwrap().copy_from_slice(&host);
            gpu.synchronize().unwrap(); // nothing clears the memory any more
            emulator::set_streams(streams);
            gpu.upload_async(&written, memory.slice()).unwrap();
            let images = turned(memory.slice(), [batch.size, batch.frames], network.input);
            let forward = of_device.forward_of(&Samples::OnDevice(OnDevice::Real(images)), mode, |_| true).unwrap();
            emulator::set_streams(Streams::Later);
            assert_same(&format!("{}, {mode:?}, {streams:?}", small.name), &bits(&of_device, &forward), &expected);
            let mut logits = vec![0.0; forward.logits.len()];
            gpu.download(of_device.device_logits(batch.size).unwrap(), &mut logits).unwrap();
            assert_eq!(logits, forward.logits, "{}", small.name);
        }
    }
}

/// The network of the first small one, and bytes for it in both orders of the axes.
fn pictures() -> (Network, Pixels, Vec<u8>, Vec<u8>, usize) {
    let small = &small_networks::all()[0];
    let network = small.network();
    let [height, width, channels] = network.input;
    let bytes: Vec<u8> = (0..small.batch * height * width * channels).map(|i| (i * 89 + i / 7) as u8).collect();
    let card = dsr::data::DataCard {
        name: "random".into(),
        classes: Vec::new(),
        shape: network.input,
        frames: 1,
        mean: vec![0.4, 0.5, 0.3],
        std: vec![0.2, 0.25, 0.3],
        max_value: 255,
    };
    let turned = channels_first(&bytes, network.input);
    (network, Pixels::of_card(&card), bytes, turned, small.batch)
}

#[test]
fn training_steps_have_the_bits_of_images_of_the_host() {
    let gpu = device::gpu();
    let (network, pixels, bytes, turned_bytes, batch) = pictures();
    let mut values = Vec::new();
    pixels.append(&bytes, &mut values);
    let labels: Vec<u32> = (0..batch as u32).collect();
    let bytes = gpu.memory_of(&turned_bytes).unwrap();
    let floats = gpu.memory_of(&channels_first(&values, network.input)).unwrap();
    let host = Samples::Real(Input { data: &values, batch, frames: 1 });
    let bytes = Samples::OnDevice(OnDevice::Bytes(turned(bytes.slice(), [batch, 1], network.input)));
    let floats = Samples::OnDevice(OnDevice::Real(turned(floats.slice(), [batch, 1], network.input)));
    let run = |samples: &Samples, stages: bool| {
        let mut network = placed(&network);
        network.look_up_by(&pixels).unwrap();
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 5e-4, network.len());
        let mut losses = Vec::new();
        for step in 0..3 {
            let mode = Mode::Train { gradient: WeightGradient::Rate, seed: step };
            let staged = if stages { network.stage(samples, &labels).unwrap() } else { None };
            network.begin_step(&mut optimizer, 0.05, &staged.map_or(*samples, Samples::Staged), &labels, mode).unwrap();
            losses.push(network.finish_step(&mut optimizer).unwrap().loss.to_bits());
        }
        network.synchronize(&mut optimizer).unwrap();
        (losses, network.values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>())
    };
    let expected = run(&host, false);
    for streams in [Streams::Later, Streams::CopiesFirst, Streams::Random(1)] {
        emulator::set_streams(streams);
        let got = [run(&floats, false), run(&bytes, false), run(&bytes, true)];
        emulator::set_streams(Streams::Later);
        got.iter().for_each(|got| assert_eq!(*got, expected, "{streams:?}"));
    }
}

#[test]
fn backward_has_the_bits_of_a_gradient_of_the_host() {
    let gpu = device::gpu();
    for small in small_networks::all().into_iter().take(4) {
        let (network, batch) = (small.network(), small.data());
        let classes = network.classes;
        let grad = seeded::values(3, batch.size * classes, -1.0..1.0);
        let turned_grad: Vec<f32> = (0..classes).flat_map(|c| (0..batch.size).map(move |b| b * classes + c)).map(|at| grad[at]).collect();
        let memory = gpu.zeroed::<f32>(grad.len()).unwrap();
        let mut written = Pinned::alloc(&gpu, grad.len()).unwrap();
        written.as_mut_slice().unwrap().copy_from_slice(&turned_grad);
        let steps = [0, 0, 0, 1, batch.size as i64];
        let on_device = Strided::new(memory.slice(), 0, [1, 1, 1, batch.size, classes], steps).unwrap();
        let run = |gradient: LogitsGradient| {
            let mut network = placed(&network);
            network.forward(&batch.input(), TRAIN, |_| false).unwrap();
            network.grads.fill(0.0);
            let mut input_grad = Vec::new();
            gpu.synchronize().unwrap();
            gpu.upload_async(&written, memory.slice()).unwrap(); // on its way when backward begins
            network.backward_of(&Samples::Real(batch.input()), gradient, Some(&mut input_grad)).unwrap();
            (network.grads.clone(), input_grad)
        };
        assert_eq!(run(LogitsGradient::OnDevice(on_device)), run(LogitsGradient::Host(&grad)), "{}", small.name);
    }
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let gpu = device::gpu();
    let (network, _, _, turned_bytes, batch) = pictures();
    let memory = gpu.memory_of(&turned_bytes).unwrap();
    let bytes = Samples::OnDevice(OnDevice::Bytes(turned(memory.slice(), [batch, 1], network.input)));
    let [height, width, channels] = network.input;
    let other = Samples::OnDevice(OnDevice::Bytes(turned(memory.slice(), [batch, 1], [width, height, channels])));
    let mut on_gpu = placed(&network);
    let problem = |done: dsr::error::Result<dsr::network::Forward>| done.unwrap_err().to_string();
    assert_eq!(
        problem(on_gpu.forward_of(&other, Mode::Eval, |_| false)),
        r#"images on the device: expected "[B, 1 or 5, [9, 7, 3]]", got (5, 1, [7, 9, 3])"#
    );
    let unknown = problem(on_gpu.forward_of(&bytes, Mode::Eval, |_| false));
    assert_eq!(unknown, r#"a batch of pictures: expected "what bytes stand for (Network::form_of)", got "nothing""#);
    assert_eq!(
        problem(network.clone().forward_of(&bytes, Mode::Eval, |_| false)),
        r#"a batch on the CPU: expected "real values", got "a batch of a device""#
    );
    let grad = gpu.memory_of(&[0.0f32; 50]).unwrap();
    let grad = Strided::new(grad.slice(), 0, [1, 1, 1, batch, 9], [0, 0, 0, 10, 1]).unwrap();
    let problem = on_gpu.backward_of(&bytes, LogitsGradient::OnDevice(grad), None).unwrap_err();
    assert_eq!(problem.to_string(), "backward: expected (5, 10), got 45");
}

/// What others say of their memory is held against the driver; what is given to them is no longer the engine's.
#[test]
fn memory_is_lent_as_far_as_the_device_has_it() {
    let gpu = device::gpu();
    let memory = gpu.memory_of(&[1.0f32; 20]).unwrap();
    let at = memory.slice().address();
    // SAFETY: the memory outlives the slices, which nothing reads.
    let lent = |address: u64, len: usize| unsafe { gpu.lent::<f32>(address, len) };
    let slice = lent(at + 8, 18).unwrap().unwrap();
    assert_eq!((slice.address(), slice.len()), (at + 8, 18));
    let host = [0.0f32; 20];
    let pinned = Pinned::<f32>::alloc(&gpu, 20).unwrap();
    let problems = [
        lent(at, 0),
        lent(at + 2, 4),
        lent(at, usize::MAX),
        lent(at, 1 << 40),
        lent(0, 4),
        lent(u64::MAX - 3, 4),
        lent(host.as_ptr() as u64, 20),
        lent(pinned.as_slice().as_ptr() as u64, 20),
    ];
    for (number, problem) in problems.iter().enumerate() {
        assert!(matches!(problem, Err(dsr::Error::ShapeMismatch { .. })), "{number}: {problem:?}");
    }
    let given = gpu.given::<f32>(20).unwrap();
    gpu.copy(memory.slice(), given.slice()).unwrap();
    let mut values = [0.0f32; 20];
    gpu.download(given.slice(), &mut values).unwrap();
    assert_eq!(values, [1.0; 20]);
    let address = given.slice().address();
    drop(given);
    if !device::is_real() {
        assert!(lent(address, 20).is_err(), "it was freed");
    }
    assert!(gpu.given::<f32>(0).is_err());
}
