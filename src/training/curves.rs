//! `curves.svg`: loss, accuracy and firing rate against epochs.

use plotters::chart::SeriesLabelPosition;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};
use crate::training::metrics::EpochMetrics;

const TRAIN: RGBColor = RGBColor(0, 90, 181);
const TEST: RGBColor = RGBColor(220, 100, 0);
const VALIDATION: RGBColor = RGBColor(40, 150, 90);
const AVERAGE: RGBColor = RGBColor(150, 80, 170);
const GRID: RGBColor = RGBColor(228, 228, 228);
const AXIS: RGBColor = RGBColor(90, 90, 90);
/// Up to this many epochs, every one gets a dot; more of them would run into a thick line.
const DOTS: usize = 40;

/// One line of a panel; values that are no number are gaps.
struct Curve<'a> {
    label: &'a str,
    colour: RGBColor,
    value: fn(&EpochMetrics) -> f64,
}

/// The picture as SVG text; any number of epochs, also none.
///
/// # Errors
/// [`Error::Config`] if the drawing library refuses the picture.
pub fn svg(metrics: &[EpochMetrics]) -> Result<String> {
    let mut text = String::new();
    draw(metrics, &mut text).map_err(|e| Error::config("curves.svg", e.to_string()))?;
    Ok(text)
}

type Drawing = std::result::Result<(), Box<dyn std::error::Error>>;
type Panel<'a, 'b> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(metrics: &[EpochMetrics], text: &mut String) -> Drawing {
    let area = SVGBackend::with_string(text, (1320, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let panels = area.split_evenly((1, 3));
    let mut loss = vec![
        Curve { label: "train", colour: TRAIN, value: |m| m.train_loss },
        Curve { label: "test", colour: TEST, value: |m| m.test_loss },
    ];
    let mut accuracy = vec![
        Curve { label: "train", colour: TRAIN, value: |m| 100.0 * m.train_accuracy },
        Curve { label: "test", colour: TEST, value: |m| 100.0 * m.test_accuracy },
    ];
    if metrics.iter().any(|m| m.val_loss.is_some()) {
        loss.push(Curve { label: "validation", colour: VALIDATION, value: |m| m.val_loss.unwrap_or(f64::NAN) });
        accuracy.push(Curve { label: "validation", colour: VALIDATION, value: |m| 100.0 * m.val_accuracy.unwrap_or(f64::NAN) });
    }
    if metrics.iter().any(|m| m.ema_test_loss.is_some()) {
        loss.push(Curve { label: "test, averaged", colour: AVERAGE, value: |m| m.ema_test_loss.unwrap_or(f64::NAN) });
        accuracy.push(Curve { label: "test, averaged", colour: AVERAGE, value: |m| 100.0 * m.ema_test_accuracy.unwrap_or(f64::NAN) });
    }
    let rate = [Curve { label: "all layers", colour: TRAIN, value: |m| m.firing_rate }];
    panel(&panels[0], metrics, "Loss", "cross-entropy", &loss, SeriesLabelPosition::UpperRight)?;
    panel(&panels[1], metrics, "Accuracy", "% of samples", &accuracy, SeriesLabelPosition::LowerRight)?;
    panel(&panels[2], metrics, "Firing rate", "spikes per neuron and step", &rate, SeriesLabelPosition::UpperRight)?;
    area.present()?;
    Ok(())
}

fn panel(area: &Panel, metrics: &[EpochMetrics], title: &str, unit: &str, curves: &[Curve], legend: SeriesLabelPosition) -> Drawing {
    let last = metrics.iter().map(epoch_of).max().unwrap_or(0).max(2);
    let drawn: Vec<Vec<Vec<(i32, f64)>>> = curves.iter().map(|curve| segments(metrics, curve.value)).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(title, ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, value_range(&drawn))?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc(unit)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .axis_style(AXIS)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .y_labels(8)
        .y_label_formatter(&|v| label(*v))
        .draw()?;
    for (curve, segments) in curves.iter().zip(&drawn) {
        let colour = curve.colour;
        let points: usize = segments.iter().map(Vec::len).sum();
        let series =
            chart.draw_series(segments.iter().filter(|s| s.len() > 1).map(|s| PathElement::new(s.clone(), colour.stroke_width(2))))?;
        series.label(curve.label).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        // A lone point has no line that could show it.
        let dots = segments.iter().filter(|s| s.len() == 1 || points <= DOTS).flatten();
        chart.draw_series(dots.map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(legend)
            .label_font(("sans-serif", 15))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .draw()?;
    }
    Ok(())
}

fn epoch_of(metrics: &EpochMetrics) -> i32 {
    metrics.epoch.min(1_000_000) as i32 // the axis is i32
}

/// Runs of values that can be drawn; a value that is no number (or far out of any picture) ends one.
fn segments(metrics: &[EpochMetrics], value: fn(&EpochMetrics) -> f64) -> Vec<Vec<(i32, f64)>> {
    let points: Vec<(i32, f64)> = metrics.iter().map(|m| (epoch_of(m), value(m))).collect();
    points.split(|(_, v)| !v.is_finite() || v.abs() > 1e12).filter(|run| !run.is_empty()).map(<[_]>::to_vec).collect()
}

/// Range that holds all points with a little room; never empty.
fn value_range(drawn: &[Vec<Vec<(i32, f64)>>]) -> std::ops::Range<f64> {
    let values = || drawn.iter().flatten().flatten().map(|&(_, v)| v);
    let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0; // nothing to draw
    }
    let room = (0.05 * (high - low)).max(0.01 * high.abs().max(low.abs())).max(1e-4);
    let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
    bottom..high + room
}

/// At most four significant digits, without trailing zeros.
fn label(value: f64) -> String {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if magnitude > 6 {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.*}", (3 - magnitude).clamp(0, 6) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}
