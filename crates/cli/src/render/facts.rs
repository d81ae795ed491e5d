//! `name  value` lines: what is shown of one thing.

/// A name and its value. An empty value is not known or does not apply.
pub(crate) type Fact = (&'static str, String);

/// Stands for an unknown or missing value where the line or column is kept.
pub(crate) const NOTHING: &str = "-";

/// Indented lines with the values in one column; facts without a value are left out.
pub(crate) fn lines(facts: Vec<Fact>) -> String {
    let facts: Vec<Fact> = facts.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.into_iter().map(|(name, value)| format!("  {name:<width$}  {value}\n")).collect()
}

/// Indented lines below a heading, after an empty line; nothing if there are none.
pub(crate) fn section(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("\n{heading}:\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_empty_ones_left_out() {
        let facts = vec![("a", "1".to_owned()), ("none", String::new()), ("bcd", "2".to_owned())];
        assert_eq!(lines(facts), "  a    1\n  bcd  2\n");
        assert_eq!(lines(vec![]), "");
    }

    #[test]
    fn a_section_without_lines_is_left_out() {
        assert_eq!(section("notes", &[]), "");
        assert_eq!(section("notes", &["x".to_owned()]), "\nnotes:\n  x\n");
    }
}
