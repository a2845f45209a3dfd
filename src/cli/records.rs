//! Results as a table with named columns, for spreadsheets (CSV) and for documents (Markdown).

use serde_json::Value;

use super::Output;
use super::tables::in_table;
use crate::spelling::one_line;

/// A table; every row has a cell a column.
pub struct Records {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Records {
    /// No rows yet.
    pub fn new<S: ToString>(heads: impl IntoIterator<Item = S>) -> Self {
        Records { heads: heads.into_iter().map(|head| head.to_string()).collect(), rows: Vec::new() }
    }

    /// A row an object; the keys of the first are the columns.
    pub fn of_objects(objects: &[Value]) -> Self {
        Records::like(objects.first().unwrap_or(&Value::Null), objects)
    }

    /// The same with the keys of another object, so that a table without rows has its columns, too.
    pub fn like(other: &Value, objects: &[Value]) -> Self {
        let keys = other.as_object().map(|object| object.keys());
        let mut records = Records::new(keys.into_iter().flatten());
        for object in objects {
            let row = records.heads.iter().map(|head| cell(&object[head.as_str()])).collect();
            records.rows.push(row);
        }
        records
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// As `output` asks for.
    ///
    /// # Errors
    /// Of a writer into memory: none is known.
    pub fn shown(&self, output: Output) -> anyhow::Result<String> {
        if output == Output::Md { Ok(self.markdown()) } else { self.csv() }
    }

    fn csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.heads)?;
        self.rows.iter().try_for_each(|row| writer.write_record(row))?;
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// A single row stands upright; of several, what is the same in all of them stands in a line above.
    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |", cells.iter().map(in_table).collect::<Vec<_>>().join(" | "));
        if let [row] = &self.rows[..] {
            let pairs = self.heads.iter().zip(row).map(|(head, cell)| line(&[head.clone(), cell.clone()]));
            return ["| what | value |".into(), "|---|---|".into()].into_iter().chain(pairs).collect::<Vec<String>>().join("\n");
        }
        let is_shared = |column: &usize| self.rows.first().is_some_and(|first| self.rows.iter().all(|row| row[*column] == first[*column]));
        let (shared, own): (Vec<usize>, Vec<usize>) = (0..self.heads.len()).partition(is_shared);
        let of = |cells: &[String]| line(&own.iter().map(|&column| cells[column].clone()).collect::<Vec<_>>());
        let known = shared.iter().filter(|&&column| !self.rows[0][column].is_empty());
        let facts: Vec<String> = known.map(|&column| one_line(format!("{} {}", self.heads[column], self.rows[0][column]))).collect();
        let mut lines = if facts.is_empty() { Vec::new() } else { vec![facts.join(", "), String::new()] };
        lines.extend([of(&self.heads), format!("|{}", "---|".repeat(own.len()))]);
        lines.extend(self.rows.iter().map(|row| of(row)));
        lines.join("\n")
    }
}

/// A value in a cell: text as it is, nothing for null, JSON for what has parts.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such as that of the kernels of a build without nvcc.
    #[test]
    fn a_table_without_rows_has_its_columns() {
        let empty = Records::like(&serde_json::json!({ "kernel": "", "registers": 0 }), &[]);
        assert_eq!(empty.shown(Output::Csv).unwrap(), "kernel,registers\n");
        assert_eq!(empty.shown(Output::Md).unwrap(), "| kernel | registers |\n|---|---|");
    }

    #[test]
    fn a_table_has_a_cell_a_column() {
        let mut records = Records::new(["name", "n", "seed"]);
        records.push(["a|b", "1", "7"].map(String::from).into());
        assert_eq!(records.markdown(), "| what | value |\n|---|---|\n| name | a\\|b |\n| n | 1 |\n| seed | 7 |");
        records.push(["c", "2", "7"].map(String::from).into());
        assert_eq!(records.markdown(), "seed 7\n\n| name | n |\n|---|---|\n| a\\|b | 1 |\n| c | 2 |");
        assert_eq!(records.csv().unwrap(), "name,n,seed\na|b,1,7\nc,2,7\n");
        assert_eq!(Records::new(Vec::<String>::new()).csv().unwrap().trim(), "\"\"");
        let of_objects = Records::of_objects(&[serde_json::json!({"b": null, "a": [1, 2]})]);
        assert_eq!(of_objects.csv().unwrap(), "a,b\n\"[1,2]\",\n");
    }
}
