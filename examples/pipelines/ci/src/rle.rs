//! A run-length code: pairs of a count from 1 to 255 and a byte.

/// Compresses `bytes`; runs become short, and bytes without runs become twice as long.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunk_by(|a, b| a == b)
        .flat_map(|run| run.chunks(u8::MAX as usize))
        .flat_map(|run| [run.len() as u8, run[0]])
        .collect()
}

/// Undoes [`compress`]; `None` if `code` is not a list of pairs or has a count of zero.
pub fn expand(code: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = code.as_chunks::<2>();
    if !rest.is_empty() || pairs.iter().any(|&[count, _]| count == 0) {
        return None;
    }
    Some(
        pairs
            .iter()
            .flat_map(|&[count, byte]| std::iter::repeat_n(byte, count.into()))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_pairs() {
        assert_eq!(compress(b"aaab"), [3, b'a', 1, b'b']);
    }

    #[test]
    fn long_runs_are_split() {
        assert_eq!(compress(&[7; 300]), [255, 7, 45, 7]);
    }

    #[test]
    fn expanding_undoes_compressing() {
        let bytes = b"mississippi".repeat(50);
        assert_eq!(expand(&compress(&bytes)), Some(bytes));
    }

    #[test]
    fn half_a_pair_is_refused() {
        assert_eq!(expand(&[1]), None);
    }
}
