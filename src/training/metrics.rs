//! What was measured over one epoch; the record of `metrics.csv`, `metrics.jsonl` and of a checkpoint's history.

use serde::{Deserialize, Serialize};

/// Measurements of one epoch. Accuracies and rates are fractions in 0..=1, losses are means over samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Learning rate of the last step.
    #[serde(with = "float")]
    pub lr: f64,
    /// Mean loss over the training samples, each measured when it was trained on.
    #[serde(with = "float")]
    pub train_loss: f64,
    /// Fraction of training samples classified right.
    #[serde(with = "float")]
    pub train_accuracy: f64,
    /// Mean loss over the test samples.
    #[serde(with = "float")]
    pub test_loss: f64,
    /// Fraction of test samples classified right.
    #[serde(with = "float")]
    pub test_accuracy: f64,
    /// Mean loss over the samples of the validation split, if there is one.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Fraction of samples of the validation split classified right, if there is one.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Mean loss over the test samples of the moving average of the parameters, if one is kept.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub ema_test_loss: Option<f64>,
    /// Fraction of test samples that it classifies right.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub ema_test_accuracy: Option<f64>,
    /// Mean loss of the average over the samples of the validation split, if there are both.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub ema_val_loss: Option<f64>,
    /// Fraction of samples of the validation split that the average classifies right.
    #[serde(with = "float::maybe", default, skip_serializing_if = "Option::is_none")]
    pub ema_val_accuracy: Option<f64>,
    /// Highest accuracy so far: on the validation split, or on the test split where there is none.
    #[serde(with = "float")]
    pub best_accuracy: f64,
    /// Spikes per neuron and time step.
    #[serde(with = "float")]
    pub firing_rate: f64,
    /// Training samples per second; NaN where it is not known (a checkpoint does not store times).
    #[serde(with = "float")]
    pub images_per_second: f64,
    /// Wall time of the epoch; NaN where it is not known.
    #[serde(with = "float")]
    pub seconds: f64,
    /// Every layer, in the order of the network; not in `metrics.csv`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerMetrics>,
    /// Layers that carried nothing in this epoch; not in `metrics.csv`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// Measurements of one layer over one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerMetrics {
    /// Name, as in [`crate::network::SpikingLayer::name`].
    pub name: String,
    /// Threshold at the end of the epoch; an ANN has none.
    pub threshold: Option<f64>,
    /// Spikes a neuron and time step over the training samples, each measured when it was trained on; of an ANN the share of
    /// activations above 0.
    #[serde(with = "float")]
    pub firing_rate: f64,
}

/// What is wrong with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It hardly fires.
    Silent,
    /// It hardly does anything else.
    Saturated,
}

/// A layer that carried nothing over an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// Name of the layer.
    pub layer: String,
    /// What is wrong with it.
    pub state: State,
    /// Spikes per neuron and step over the training samples of the epoch.
    pub firing_rate: f64,
    /// What to change.
    pub advice: String,
}

impl Warning {
    /// `layer relu2 is silent (firing rate 0.01 %): lower --vth-pooled …`
    pub fn line(&self) -> String {
        let state = match self.state {
            State::Silent => "silent",
            State::Saturated => "saturated",
        };
        format!("layer {} is {state} (firing rate {:.2} %): {}", self.layer, 100.0 * self.firing_rate, self.advice)
    }
}

impl EpochMetrics {
    /// The same without wall times, which differ between two runs that compute the same.
    pub fn without_times(&self) -> Self {
        EpochMetrics { images_per_second: f64::NAN, seconds: f64::NAN, ..self.clone() }
    }
}

/// JSON has no NaN and no infinity: NaN is written as null (an empty CSV field), infinities as text.
pub(crate) mod float {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            v if v.is_nan() => serializer.serialize_none(),
            f64::INFINITY => serializer.serialize_str("inf"),
            f64::NEG_INFINITY => serializer.serialize_str("-inf"),
            v => serializer.serialize_f64(v),
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Option::<Written>::deserialize(deserializer)? {
            None => Ok(f64::NAN),
            Some(Written::Number(value)) => Ok(value),
            Some(Written::Text(text)) if text == "inf" => Ok(f64::INFINITY),
            Some(Written::Text(text)) if text == "-inf" => Ok(f64::NEG_INFINITY),
            Some(Written::Text(text)) => Err(D::Error::custom(format!("{text:?} is not a number"))),
        }
    }

    /// The same for a value that need not be there; one that is not there is left out.
    pub(crate) mod maybe {
        use serde::{Deserializer, Serializer};

        pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
            super::serialize(&value.unwrap_or(f64::NAN), serializer)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }
    }
}
