//! The protocol names that a TLS client offers: each has one byte of length before it, and the list has two.

/// Encodes the body of an ALPN extension; `None` if a name is empty or over 255 bytes, or the list too long.
pub fn encode(protocols: &[&str]) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for name in protocols {
        let length = u8::try_from(name.len()).ok().filter(|&length| length > 0)?;
        list.push(length);
        list.extend_from_slice(name.as_bytes());
    }
    let length = u16::try_from(list.len()).ok()?;
    Some([&length.to_be_bytes()[..], &list].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_each_name_carry_their_lengths() {
        assert_eq!(
            encode(&["h2", "http/1.1"]).unwrap(),
            b"\0\x0c\x02h2\x08http/1.1"
        );
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert_eq!(encode(&["h2", ""]), None);
    }
}
