//! What a forward pass gives, in bits.

use dsr::network::{Forward, Network};

/// Everything a forward pass gives, named, as bits.
pub fn bits(network: &Network, forward: &Forward) -> Vec<(String, Vec<u32>)> {
    let of = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    let layers = network.layers.iter().zip(&forward.spikes);
    let mut all: Vec<(String, Vec<u32>)> = layers.map(|(l, s)| (l.name.clone(), s.as_ref().unwrap().bits().to_vec())).collect();
    all.push(("logits".into(), of(&forward.logits)));
    let currents = network.output_currents(forward.logits.len() / network.classes).unwrap();
    all.push(("currents of the output neurons".into(), of(&currents)));
    all.push(("rates".into(), of(&forward.rates)));
    for norm in &network.norms {
        all.push((norm.name.clone(), of(&[&norm.running_mean[..], &norm.running_var].concat())));
    }
    all
}

pub fn assert_same(name: &str, got: &[(String, Vec<u32>)], expected: &[(String, Vec<u32>)]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for ((part, got), (_, expected)) in got.iter().zip(expected) {
        let differing = got.iter().zip(expected).filter(|(a, b)| a != b).count();
        let first = got.iter().zip(expected).position(|(a, b)| a != b).map(|i| (i, got[i], expected[i]));
        assert!(got.len() == expected.len() && differing == 0, "{name}: {part}: {differing} of {} words, first {first:x?}", expected.len());
    }
}
