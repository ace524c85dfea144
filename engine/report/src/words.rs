//! Pieces of text that all reports share: counted things, words of a shell, tables.

use unicode_width::UnicodeWidthStr;

use crate::escape_text;

/// A number of things.
pub fn plural(n: u64, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// A number of things whose plural is irregular.
pub fn plural_of(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A word as it has to be typed in a shell.
pub fn shell_word(word: &str) -> String {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'_' | b'.' | b'/' | b'-' | b'=' | b':' | b',' | b'+')
    };
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The command that runs a pipeline again with the same parameters, to which `--only NODE` can be added.
pub fn rerun_command<'a>(
    file: &str,
    params: impl IntoIterator<Item = &'a str>,
    files: impl IntoIterator<Item = &'a str>,
) -> String {
    let params = params_flags(params, files);
    format!("dagrun {}{params}", shell_word(file))
}

/// The flags that give parameters, with a space before each.
pub fn params_flags<'a>(
    params: impl IntoIterator<Item = &'a str>,
    files: impl IntoIterator<Item = &'a str>,
) -> String {
    let flag = |flag| move |value: &str| format!(" {flag} {}", shell_word(value));
    let params = params.into_iter().map(flag("-p"));
    params
        .chain(files.into_iter().map(flag("--params-file")))
        .collect()
}

/// The first of some texts, and how many more there are.
pub fn first_of(texts: &[String], most: usize) -> String {
    let first: Vec<String> = texts
        .iter()
        .take(most)
        .map(|text| escape_text(text))
        .collect();
    match texts.len().saturating_sub(most) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A table with columns as wide as they need to be; a header with a leading `>` is of a column that is aligned to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = header
        .iter()
        .map(|name| name.trim_start_matches('>').to_string())
        .collect();
    let lines = || std::iter::once(&names).chain(rows);
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = lines().filter_map(|row| row.get(column));
            cells.map(|cell| cell.width()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(cell.width()));
            if header[column].starts_with('>') {
                line.push_str(&pad);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&pad);
            }
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_also_under_wide_characters() {
        let rows = [("ab", "1"), ("c", "100"), ("世界", "2")]
            .map(|(name, n)| vec![name.to_string(), n.to_string()]);
        let text = table(&["name", ">n"], &rows);
        assert_eq!(text, "name    n\nab      1\nc     100\n世界    2\n");
    }

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(shell_word("a[x=1]"), "'a[x=1]'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(
            rerun_command("p.yaml", ["a=1 2"], ["f.json"]),
            "dagrun p.yaml -p 'a=1 2' --params-file f.json"
        );
    }
}
