//! Text of others, made harmless.

/// Escapes control characters and those that turn the direction of text; line ends and tabs stay, `\r\n` is a line end.
pub fn escape_text(text: &str) -> String {
    escape(&text.replace("\r\n", "\n"), |c| c == '\n' || c == '\t')
}

/// Escapes everything that is not on one line.
pub fn escape_line(text: &str) -> String {
    escape(text, |_| false)
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() || turns(c)) && !stays(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Text for an element or attribute of XML or HTML.
pub(crate) fn entities(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Characters by which a text can look like another one.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_gets_through() {
        let text = "a\u{1b}[31mred\u{7}\r\u{9b}x\u{202e}b\nc\td";
        assert_eq!(
            escape_text(text),
            "a\\u{1b}[31mred\\u{7}\\r\\u{9b}x\\u{202e}b\nc\td"
        );
        assert_eq!(escape_line("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(escape_text("a\r\nb\rc"), "a\nb\\rc");
        assert_eq!(escape_text("Grüße, 世界"), "Grüße, 世界");
    }
}
