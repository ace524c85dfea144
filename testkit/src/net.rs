//! Hosts on a network of their own: namespaces that a bridge joins, with cables that can be cut and filters that lose packets.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::skip::{Unavailable, require_program, require_root, run};

/// What namespaces of this kit are called, before the process id and a number.
const PREFIX: &str = "dagrun-lab-";

static LABS: AtomicU32 = AtomicU32::new(0);

/// So many hosts with an address each. Its namespaces go when it is dropped; those of a killed test go with the next lab.
#[derive(Debug)]
pub struct NetLab {
    name: String,
    hosts: usize,
}

impl NetLab {
    /// Makes the hosts and joins them.
    ///
    /// # Errors
    /// Without root, `ip` or `nft`, or where the kernel has no namespaces or bridges.
    pub fn new(hosts: usize) -> Result<Self, Unavailable> {
        require_root()?;
        require_program("ip")?;
        require_program("nft")?;
        sweep();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            hosts,
        };
        let hub = lab.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for host in 0..hosts {
            lab.plug(host)?;
        }
        Ok(lab)
    }

    fn plug(&self, host: usize) -> Result<(), Unavailable> {
        let (hub, name, cable) = (self.hub(), self.host(host), cable(host));
        ip(&["netns", "add", &name])?;
        let veth = ["type", "veth", "peer", "name", "eth0", "netns", &name];
        ip(&[&["-n", &hub, "link", "add", &cable][..], &veth].concat())?;
        ip(&["-n", &hub, "link", "set", &cable, "master", "bridge", "up"])?;
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"]).map(drop)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn host(&self, host: usize) -> String {
        assert!(host < self.hosts, "there are {} hosts", self.hosts);
        format!("{}-{host}", self.name)
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> String {
        format!("10.99.0.{}", host + 1)
    }

    /// A command that runs on a host. The process that it starts is the program itself.
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.host(host)])
            .arg(program);
        command
    }

    /// Pulls the cable of a host: nothing goes in or out, and neither side is told.
    ///
    /// # Panics
    /// When that is refused.
    pub fn unplug(&self, host: usize) {
        self.set_cable(host, "down");
    }

    /// Puts the cable of a host back.
    ///
    /// # Panics
    /// When that is refused.
    pub fn replug(&self, host: usize) {
        self.set_cable(host, "up");
    }

    fn set_cable(&self, host: usize, state: &str) {
        let set = ["-n", &self.hub(), "link", "set", &cable(host), state];
        ip(&set).unwrap_or_else(|why| panic!("{why}"));
    }

    /// A host sends and hears nothing of it arrive: a partition in one direction.
    ///
    /// # Panics
    /// When that is refused.
    pub fn deafen(&self, host: usize) {
        self.filter(host, "iif eth0 drop");
    }

    /// Of all packets that come to a host, so many percent do not arrive.
    ///
    /// # Panics
    /// When that is refused.
    pub fn lose(&self, host: usize, percent: u32) {
        assert!(percent < 100, "for all of them there is `deafen`");
        self.filter(
            host,
            &format!("iif eth0 numgen random mod 100 < {percent} drop"),
        );
    }

    /// Connections to a host are reset.
    ///
    /// # Panics
    /// When that is refused.
    pub fn reset(&self, host: usize) {
        self.filter(host, "iif eth0 meta l4proto tcp reject with tcp reset");
    }

    /// Takes all filters of a host away.
    ///
    /// # Panics
    /// When that is refused.
    pub fn heal(&self, host: usize) {
        self.nft(host, "flush ruleset\n");
    }

    fn filter(&self, host: usize, rule: &str) {
        let table = format!(
            "flush ruleset\ntable inet lab {{\n chain in {{\n type filter hook input priority 0;\n {rule}\n }}\n}}\n"
        );
        self.nft(host, &table);
    }

    fn nft(&self, host: usize, rules: &str) {
        let mut nft = self.command(host, "nft");
        let mut nft = nft
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft can be started");
        let mut input = nft.stdin.take().expect("it was piped");
        input.write_all(rules.as_bytes()).expect("nft reads");
        drop(input);
        let status = nft.wait().expect("nft ends");
        assert!(status.success(), "nft refuses: {rules}");
    }

    /// Bytes go out of a host at most so fast, in the words of `tc`: `10mbit`.
    ///
    /// # Panics
    /// When that is refused.
    pub fn throttle(&self, host: usize, rate: &str) {
        let shape = ["tbf", "rate", rate, "burst", "32kb", "latency", "400ms"];
        let mut tc = Command::new("tc");
        tc.args(["-n", &self.host(host), "qdisc", "replace", "dev", "eth0"])
            .args(["root"])
            .args(shape);
        run(&mut tc).unwrap_or_else(|why| panic!("{why}"));
    }
}

impl Drop for NetLab {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = ip(&["netns", "delete", &self.host(host)]);
        }
        let _ = ip(&["netns", "delete", &self.hub()]);
    }
}

/// The end of a host's cable at the bridge.
fn cable(host: usize) -> String {
    format!("host{host}")
}

fn ip(args: &[&str]) -> Result<String, Unavailable> {
    run(Command::new("ip").args(args))
}

/// Removes the namespaces of labs whose process is gone.
fn sweep() {
    let listed = ip(&["netns", "list"]).unwrap_or_default();
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    for name in names {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let is_left = owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists());
        if is_left {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    /// Whether a host reaches a port of another within a second.
    fn reaches(lab: &NetLab, from: usize, to: usize, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/{port}", lab.address(to));
        let mut probe = lab.command(from, "timeout");
        let probe = probe.args(["1", "bash", "-c", &script]);
        probe.stderr(Stdio::null()).status().unwrap().success()
    }

    /// A link that comes up, and a server that starts, take a moment.
    fn comes_to_reach(lab: &NetLab, from: usize, to: usize, port: u16) {
        let began = std::time::Instant::now();
        while !reaches(lab, from, to, port) {
            assert!(began.elapsed().as_secs() < 30, "no way from {from} to {to}");
        }
    }

    #[test]
    fn hosts_reach_each_other_until_they_are_cut_off() {
        let test = "hosts_reach_each_other_until_they_are_cut_off";
        let lab = skip!(test, NetLab::new(2));
        skip!(test, require_program("python3"));
        let mut server = lab.command(0, "python3");
        let server = server
            .args(["-u", "-m", "http.server", "7777"])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _server = Ended(server);
        comes_to_reach(&lab, 1, 0, 7777);
        lab.unplug(1);
        assert!(!reaches(&lab, 1, 0, 7777));
        lab.replug(1);
        comes_to_reach(&lab, 1, 0, 7777);
        lab.deafen(0);
        assert!(!reaches(&lab, 1, 0, 7777));
        lab.reset(0);
        assert!(!reaches(&lab, 1, 0, 7777));
        lab.lose(0, 10);
        lab.throttle(0, "100mbit");
        lab.heal(0);
        comes_to_reach(&lab, 1, 0, 7777);
    }

    struct Ended(std::process::Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
