//! The confusion matrix of `dsr eval --confusion` as text and as rows of a table.

use std::fmt::Write;

use crate::spelling::one_line;

/// Above the names of the true classes, before the numbers of the predicted ones.
const HEAD: &str = "true\\predicted";
/// Most classes that the text shows as a table.
const TABLE: usize = 20;
/// Pairs of classes that it shows of more.
const PAIRS: usize = 20;

/// Rows are true classes, columns predicted ones; of many classes, the pairs that are confused most.
///
/// # Errors
/// None: a text takes all that is written.
pub fn text(out: &mut String, classes: &[String], matrix: &[Vec<usize>]) -> std::fmt::Result {
    let classes: Vec<String> = classes.iter().map(one_line).collect();
    if classes.len() > TABLE { pairs(out, &classes, matrix) } else { table(out, &classes, matrix) }
}

fn table(out: &mut String, classes: &[String], matrix: &[Vec<usize>]) -> std::fmt::Result {
    let name = classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(HEAD.len());
    let most = matrix.iter().flatten().copied().max().unwrap_or(0).max(classes.len());
    let cell = most.to_string().len() + 2;
    write!(out, "{:>3} {:name$}", "", HEAD)?;
    (0..classes.len()).try_for_each(|class| write!(out, "{class:>cell$}"))?;
    for (class, (label, row)) in classes.iter().zip(matrix).enumerate() {
        write!(out, "\n{class:>3} {label:name$}")?;
        row.iter().try_for_each(|count| write!(out, "{count:>cell$}"))?;
    }
    writeln!(out)
}

fn pairs(out: &mut String, classes: &[String], matrix: &[Vec<usize>]) -> std::fmt::Result {
    let mut wrong: Vec<(usize, usize, usize)> = Vec::new();
    for (label, row) in matrix.iter().enumerate() {
        wrong.extend(row.iter().enumerate().filter(|&(class, &count)| class != label && count > 0).map(|(class, &n)| (n, label, class)));
    }
    wrong.sort_by_key(|&(count, label, class)| (std::cmp::Reverse(count), label, class));
    writeln!(out, "{} pairs of classes are confused; the first {}:", wrong.len(), wrong.len().min(PAIRS))?;
    writeln!(out, "{:>6} {:>7}  true -> predicted", "n", "% of n")?;
    for &(count, label, class) in wrong.iter().take(PAIRS) {
        let share = 100.0 * count as f64 / matrix[label].iter().sum::<usize>().max(1) as f64;
        writeln!(out, "{count:>6} {share:>7.1}  {} -> {}", classes[label], classes[class])?;
    }
    Ok(())
}

/// True class, predicted class and count of every pair.
pub fn rows(classes: &[String], matrix: &[Vec<usize>]) -> Vec<[String; 3]> {
    let of_label = |(label, counts): (&String, &Vec<usize>)| {
        let row = |(class, count): (&String, &usize)| [label.clone(), class.clone(), count.to_string()];
        classes.iter().zip(counts).map(row).collect::<Vec<_>>()
    };
    classes.iter().zip(matrix).flat_map(of_label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_classes_are_a_table_and_many_the_pairs_confused_most() {
        let shown = |classes: &[String], matrix: &[Vec<usize>]| {
            let mut out = String::new();
            text(&mut out, classes, matrix).unwrap();
            out
        };
        let names = ["cat".to_string(), "dog".to_string()];
        let expected = "    true\\predicted  0  1\n  0 cat             5  1\n  1 dog             0  6\n";
        assert_eq!(shown(&names, &[vec![5, 1], vec![0, 6]]), expected);
        let names: Vec<String> = (0..21).map(|class| format!("c{class}")).collect();
        let mut matrix = vec![vec![0; 21]; 21];
        (matrix[3][3], matrix[3][20], matrix[7][2], matrix[1][0]) = (2, 2, 3, 2);
        let lines = shown(&names, &matrix);
        let lines: Vec<&str> = lines.lines().skip(2).collect();
        assert_eq!(lines, ["     3   100.0  c7 -> c2", "     2   100.0  c1 -> c0", "     2    50.0  c3 -> c20"]);
    }
}
