//! Whose a connection over the loopback is: other users of a machine reach its loopback too.
//!
//! From the kernel's table of sockets. Only an established connection tells: one that is closing is nobody's.

use std::{
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

/// The user whose socket is connected from `peer` to `here`, both on this machine; none where there is no such connection (any more).
pub(super) fn owner(peer: SocketAddr, here: SocketAddr) -> io::Result<Option<u32>> {
    for (table, v6) in [("/proc/net/tcp", false), ("/proc/net/tcp6", true)] {
        let (Some(peer), Some(here)) = (entry(peer, v6), entry(here, v6)) else {
            continue;
        };
        let file = match std::fs::File::open(table) {
            // A kernel without IPv6 has no table of it.
            Err(error) if v6 && error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for line in BufReader::new(file).lines() {
            if let Some(uid) = owner_in(&line?, &peer, &here) {
                return Ok(Some(uid));
            }
        }
    }
    Ok(None)
}

/// `sl local remote state queues timer retransmits uid ...`
fn owner_in(line: &str, local: &str, remote: &str) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_ascii_whitespace().skip(1);
    let same = words.next()? == local && words.next()? == remote && words.next()? == ESTABLISHED;
    same.then(|| words.nth(3)?.parse().ok()).flatten()
}

/// How the kernel writes an address in its tables: words of the machine's byte order, in hexadecimal.
fn entry(address: SocketAddr, v6: bool) -> Option<String> {
    let ip = match (address.ip().to_canonical(), v6) {
        (IpAddr::V4(ip), false) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        (IpAddr::V4(ip), true) => words(ip.to_ipv6_mapped().octets()),
        (IpAddr::V6(ip), true) => words(ip.octets()),
        (IpAddr::V6(_), false) => return None,
    };
    Some(format!("{ip}:{:04X}", address.port()))
}

fn words(octets: [u8; 16]) -> String {
    let (words, _) = octets.as_chunks::<4>();
    words
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn is_mine(listen: &str, connect: &str) {
        let Ok(listener) = TcpListener::bind(listen) else {
            dagrun_testkit::report_skipped(
                "the_owner_of_a_connection_is_found",
                &format!("no loopback {listen}"),
            );
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(format!("{connect}:{port}")).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let here = server.local_addr().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(owner(peer, here).unwrap(), Some(me), "{listen} {connect}");
        drop(client);
        // Its row may be there yet, as nobody's: closing sockets are of user 0 in the table.
        assert_eq!(owner(peer, here).unwrap(), None);
    }

    #[test]
    fn the_owner_of_a_connection_is_found() {
        is_mine("127.0.0.1:0", "127.0.0.1");
        is_mine("[::1]:0", "[::1]");
        is_mine("[::]:0", "127.0.0.1");
    }

    #[test]
    fn only_established_rows_count() {
        let row = |state: &str| {
            format!(
                "   1: 0100007F:8F3C 0100007F:1F90 {state} 00000000:00000000 00:00000000 00000000  1000        0 123 1"
            )
        };
        let find = |line: &str| owner_in(line, "0100007F:8F3C", "0100007F:1F90");
        assert_eq!(find(&row("01")), Some(1000));
        assert_eq!(find(&row("06")), None);
        assert_eq!(find("  sl  local_address rem_address   st"), None);
    }
}
