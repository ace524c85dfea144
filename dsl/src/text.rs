//! The text of a scalar, and where each byte of it stands in the source.
//!
//! Owns the map from the decoded text (escapes resolved, folded lines joined, indentation removed) back to the file.
//! Knows neither YAML, which makes the map, nor expressions, which ask it for spans.

use std::ops::Range;

use dagrun_model::{FileIx, Span};

/// The decoded text of a scalar with a map from its byte offsets to source spans.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    file: FileIx,
    text: String,
    /// Pairs of (offset in the text, offset in the source), ascending; between two pairs both advance together.
    segments: Vec<(u32, u32)>,
    span: Span,
}

impl SourceText {
    /// A text that stands in the source byte for byte, from `source_start`.
    pub(crate) fn plain(file: FileIx, text: impl Into<String>, source_start: usize) -> Self {
        let text = text.into();
        let span = Span::new(file, source_start, source_start.saturating_add(text.len()));
        Self {
            file,
            text,
            segments: vec![(0, span.start)],
            span,
        }
    }

    /// A text whose parts stand in the source as `segments` say: pairs of (text offset, source offset), ascending.
    ///
    /// `span` is the whole scalar with its quotes; what no segment covers is pointed at with its start.
    pub(crate) fn mapped(
        file: FileIx,
        text: impl Into<String>,
        segments: Vec<(u32, u32)>,
        span: Span,
    ) -> Self {
        Self {
            file,
            text: text.into(),
            segments,
            span,
        }
    }

    /// The decoded text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The whole scalar in the source.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The place in the source of a byte range of the text.
    pub(crate) fn span_of(&self, range: Range<usize>) -> Span {
        let start = self.source_offset(range.start);
        let end = if range.is_empty() {
            start
        } else {
            // The end of the last byte, so that a range that ends a line does not reach into the next one.
            self.source_offset(range.end - 1) + 1
        };
        Span::new(self.file, start, end.max(start))
    }

    fn source_offset(&self, offset: usize) -> usize {
        let next = self
            .segments
            .partition_point(|(text, _)| *text as usize <= offset);
        match next.checked_sub(1).map(|ix| self.segments[ix]) {
            Some((text, source)) => source as usize + (offset - text as usize),
            None => self.span.start as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_maps_byte_for_byte() {
        let text = SourceText::plain(FileIx(0), "abc", 10);
        assert_eq!(text.span_of(1..3), Span::new(FileIx(0), 11, 13));
        assert_eq!(text.span(), Span::new(FileIx(0), 10, 13));
    }

    #[test]
    fn folded_lines_map_to_their_own_places() {
        // `ab` at 10, then a line end and four spaces of indentation, then `cd`.
        let text = SourceText::mapped(
            FileIx(0),
            "ab cd",
            vec![(0, 10), (3, 17)],
            Span::new(FileIx(0), 10, 19),
        );
        assert_eq!(text.span_of(3..5), Span::new(FileIx(0), 17, 19));
        assert_eq!(text.span_of(0..5), Span::new(FileIx(0), 10, 19));
        assert_eq!(text.span_of(0..2), Span::new(FileIx(0), 10, 12));
        assert_eq!(text.span_of(5..5), Span::new(FileIx(0), 19, 19));
    }
}
