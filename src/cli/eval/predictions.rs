//! What was predicted of each sample, as a table.

use std::error::Error;

use crate::data::Dataset;
use crate::evaluation::Evaluation;

/// `index,label,prediction,logit_0,…`, `current_0,…` where there are currents, `path` where samples have files of their own, and
/// `start,end` (microseconds of its clock, empty for all of it) where files have several; a line a sample.
///
/// # Errors
/// Those of the writer, of which memory has none.
pub fn csv(evaluation: &Evaluation, dataset: &Dataset) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let (classes, samples) = (evaluation.classes, evaluation.labels.len());
    let mut columns = vec![("logit", &evaluation.logits)];
    if !evaluation.currents.is_empty() {
        columns.push(("current", &evaluation.currents));
    }
    let files: Vec<_> = (0..samples).map_while(|index| dataset.tested(index)).collect();
    let has_parts = files.iter().any(|(_, when)| when.is_some());
    let mut heads: Vec<String> = ["index", "label", "prediction"].map(String::from).into();
    heads.extend(columns.iter().flat_map(|(name, _)| (0..classes).map(move |class| format!("{name}_{class}"))));
    let of_files: &[&str] = if files.is_empty() { &[] } else { &["path"] };
    let of_parts: &[&str] = if has_parts { &["start", "end"] } else { &[] };
    heads.extend(of_files.iter().chain(of_parts).map(ToString::to_string));
    writer.write_record(heads)?;
    for (index, label) in evaluation.labels.iter().enumerate() {
        let mut row: Vec<Vec<u8>> = [index.to_string(), label.to_string(), evaluation.prediction(index).to_string()].map(Into::into).into();
        let values = columns.iter().flat_map(|(_, values)| &values[index * classes..][..classes]);
        row.extend(values.map(|value| value.to_string().into_bytes()));
        if let Some((path, when)) = files.get(index) {
            // As the system has it: a name need not be text.
            row.push(path.as_os_str().as_encoded_bytes().to_vec());
            let ends = when.as_ref().map_or([i64::MIN, i64::MAX], |when| [when.start, when.end]);
            let shown = ends.map(|end| if [i64::MIN, i64::MAX].contains(&end) { String::new() } else { end.to_string() });
            row.extend(shown.into_iter().take(of_parts.len()).map(String::into_bytes));
        }
        writer.write_record(row)?;
    }
    Ok(writer.into_inner()?)
}
