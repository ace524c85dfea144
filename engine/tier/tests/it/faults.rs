//! F52: servers that refuse, throttle, cut, lie and hang. A run is never failed by them, and never waits for long.

use std::time::{Duration, Instant};

use dagrun_store::Tier;
use dagrun_testkit::{Asked, BucketServer, FaultProxy, Mishap, skip};

use crate::kit::{How, Machine, Place, action, blob, machine, reader};

/// A proxy before moto, once a result was put there without it.
fn before(
    moto: &BucketServer,
    rule: impl Fn(&Asked) -> Mishap + Send + Sync + 'static,
) -> (FaultProxy, Place) {
    let maker = machine(&Place::S3(moto.url(), "team".into()), How::default());
    maker.make(1, &body());
    let proxy = FaultProxy::start(moto.address(), rule);
    let place = Place::S3(proxy.url(), "team".into());
    (proxy, place)
}

/// Large enough to be cut in the middle.
fn body() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n % 251) as u8).collect()
}

fn has_all(machine: &Machine) {
    assert!(machine.find(1).is_some(), "{:?}", machine.warnings());
    let read = machine.store.read(&blob(&body()).digest);
    assert!(
        read.is_ok_and(|read| read == body()),
        "{:?}",
        machine.warnings()
    );
    assert_eq!(machine.warnings(), Vec::<String>::new());
}

/// A name and what happens to requests.
type Fault = (&'static str, fn(&Asked) -> Mishap);

#[test]
fn f52_throttling_resets_and_cut_bodies_are_tried_again() {
    let moto = skip!("F52", BucketServer::moto());
    let faults: [Fault; 6] = [
        ("503", |asked| match asked.before {
            0 | 1 => Mishap::Status(503, "SlowDown"),
            _ => Mishap::None,
        }),
        ("500", |asked| match asked.before {
            0 => Mishap::Status(500, "InternalError"),
            _ => Mishap::None,
        }),
        ("429", |asked| match asked.before {
            0 => Mishap::Status(429, "TooManyRequests"),
            _ => Mishap::None,
        }),
        ("reset", |asked| match asked.before {
            0 => Mishap::Reset,
            _ => Mishap::None,
        }),
        // It goes on where it was cut.
        ("short", |asked| match asked.before {
            0 | 1 => Mishap::Short(100_000),
            _ => Mishap::None,
        }),
        ("late", |_| Mishap::Delay(Duration::from_millis(50))),
    ];
    for (name, rule) in faults {
        let (proxy, place) = before(&moto, rule);
        let reader = machine(&place, reader());
        has_all(&reader);
        let traffic = reader.shared.traffic();
        assert_eq!(traffic.retries > 0, name != "late", "{name}: {traffic:?}");
        assert_eq!(traffic.wrong_blobs, 0, "{name}");
        if name == "short" {
            assert!(traffic.bytes_in <= 300_000, "{traffic:?}");
        }
        assert!(proxy.requests() >= 3);
    }
}

#[test]
fn f52_a_flipped_byte_is_noticed_and_the_blob_fetched_again() {
    let moto = skip!("F52", BucketServer::moto());
    let (_proxy, place) = before(&moto, |asked| {
        match asked.path.contains("/blobs/") && asked.before == 0 {
            true => Mishap::Flip,
            false => Mishap::None,
        }
    });
    let once = machine(&place, reader());
    has_all(&once);
    assert_eq!(once.shared.traffic().wrong_blobs, 1);

    // Always wrong is as good as missing.
    let (_proxy, place) = before(&moto, |asked| match asked.path.contains("/blobs/") {
        true => Mishap::Flip,
        false => Mishap::None,
    });
    let always = machine(&place, reader());
    assert!(always.find(1).is_some());
    let error = always.store.read(&blob(&body()).digest).unwrap_err();
    assert!(error.is_lost_blob());
    assert_eq!(always.warnings().len(), 1);
}

#[test]
fn f52_a_cache_that_hangs_is_left_out_after_its_budget() {
    let moto = skip!("F52", BucketServer::moto());
    let (proxy, place) = before(&moto, |_| Mishap::Hang);
    let how = How {
        patience: Duration::from_secs(2),
        ..How::default()
    };
    let machine = machine(&place, how);
    let started = Instant::now();
    let tier: &dyn Tier = &*machine.shared;
    tier.find_now((0..200).map(action).collect());
    let first = started.elapsed();
    assert!(first < Duration::from_secs(8), "{first:?}");
    let warnings = machine.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("is left out from now on"),
        "{warnings:?}"
    );

    // From here on nobody waits, and nothing is asked.
    let asked = proxy.requests();
    let started = Instant::now();
    assert!(machine.find(1).is_none());
    assert!(machine.store.read(&blob(&body()).digest).is_err());
    let blob = machine.store.put_bytes(b"x").unwrap();
    machine
        .store
        .commit(vec![(
            action(5),
            crate::kit::entry("n", &[("o", dagrun_model::Artifact::File(blob))]),
        )])
        .unwrap();
    machine.shared.offer(vec![action(5)]);
    machine.shared.drain(Duration::from_secs(30), &mut |_| true);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(proxy.requests(), asked);
    assert!(machine.warnings().is_empty(), "it is said once");
}

#[test]
fn f52_a_cache_that_is_down_or_forbids_makes_one_warning_and_misses() {
    let moto = skip!("F52", BucketServer::moto());
    for (rule, word) in [
        (
            (|_: &Asked| Mishap::Status(503, "SlowDown")) as fn(&Asked) -> Mishap,
            "left out",
        ),
        (|_| Mishap::Reset, "left out"),
        (
            |_| Mishap::Status(403, "AccessDenied"),
            "needs the rights to get and to list",
        ),
        (
            |_| Mishap::Status(400, "ExpiredToken"),
            "refuses: ExpiredToken (injected)",
        ),
    ] {
        let (_proxy, place) = before(&moto, rule);
        let how = How {
            patience: Duration::from_secs(2),
            ..reader()
        };
        let machine = machine(&place, how);
        let started = Instant::now();
        let tier: &dyn Tier = &*machine.shared;
        tier.find_now((0..100).map(action).collect());
        assert!(started.elapsed() < Duration::from_secs(10));
        let warnings = machine.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(word), "{word}: {warnings:?}");
    }
}

#[test]
fn f52_who_may_read_but_not_write_reads_on() {
    let moto = skip!("F52", BucketServer::moto());
    let (_proxy, place) = before(&moto, |asked| match asked.method.as_str() {
        "GET" | "HEAD" => Mishap::None,
        _ => Mishap::Status(403, "AccessDenied"),
    });
    let machine = machine(&place, How::default());
    for n in 10..15 {
        let text = format!("result {n}");
        let blob = machine.store.put_bytes(text.as_bytes()).unwrap();
        let entry = crate::kit::entry("n", &[("o", dagrun_model::Artifact::File(blob))]);
        machine.store.commit(vec![(action(n), entry)]).unwrap();
        machine.shared.offer(vec![action(n)]);
    }
    machine.shared.drain(Duration::from_secs(30), &mut |_| true);
    let warnings = machine.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("--cache-mode read"), "{warnings:?}");
    assert!(!machine.shared.takes_results());
    has_all(&machine);
}

#[test]
fn f52_puts_whose_replies_are_lost_are_made_once() {
    let moto = skip!("F52", BucketServer::moto());
    let (_proxy, place) = before(&moto, |asked| {
        match asked.method == "PUT" && asked.before == 0 {
            true => Mishap::LoseReply,
            false => Mishap::None,
        }
    });
    let writer = machine(&place, How::default());
    writer.make(2, b"two");
    assert_eq!(writer.warnings(), Vec::<String>::new());
    let other = machine(&Place::S3(moto.url(), "team".into()), reader());
    assert!(other.find(2).is_some());
    assert_eq!(other.store.read(&blob(b"two").digest).unwrap(), b"two");
}

#[test]
fn f52_a_cache_that_nobody_serves_costs_a_moment() {
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let place = Place::S3(format!("http://{address}"), "team".into());
    let how = How {
        patience: Duration::from_secs(1),
        ..How::default()
    };
    let machine = machine(&place, how);
    let started = Instant::now();
    assert!(machine.find(1).is_none());
    assert!(started.elapsed() < Duration::from_secs(5));
}
