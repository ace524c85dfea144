//! S3 and Azure as moto and Azurite have them: the same promises, and conditional puts.

use dagrun_store::conformance;
use dagrun_testkit::{BucketServer, skip};

use crate::kit::{How, Place, blob, machine, reader};

#[test]
fn a_bucket_of_s3_keeps_what_every_store_promises() {
    let server = skip!("S3 conformance", BucketServer::moto());
    keeps_promises(&|prefix| Place::S3(server.url(), prefix.into()));
}

#[test]
fn a_container_of_azure_keeps_what_every_store_promises() {
    let server = skip!("Azure conformance", BucketServer::azurite());
    keeps_promises(&|prefix| Place::Azure(server.url(), prefix.into()));
}

fn keeps_promises(place: &dyn Fn(&str) -> Place) {
    // The tests of the suite use the same actions, so each has a prefix of its own.
    let open = |name: &str| -> Box<dyn conformance::Backend> {
        Box::new(machine(&place(name), How::default()))
    };
    conformance::run_with(&open, 5);
}

#[test]
fn results_go_to_s3_and_back_and_nothing_is_written_over() {
    let server = skip!("S3", BucketServer::moto());
    goes_there_and_back(&Place::S3(server.url(), "team".into()));
}

#[test]
fn results_go_to_azure_and_back_and_nothing_is_written_over() {
    let server = skip!("Azure", BucketServer::azurite());
    goes_there_and_back(&Place::Azure(server.url(), "team".into()));
}

fn goes_there_and_back(place: &Place) {
    let maker = machine(place, How::default());
    let made = maker.make(1, b"the result");
    let bytes: Vec<u8> = (0..20_000_003_u32).map(|n| (n % 251) as u8).collect();
    maker.make(2, &bytes);

    let other = machine(place, reader());
    assert_eq!(other.find(1), Some(made));
    assert_eq!(other.find(3), None);
    assert_eq!(
        other.store.read(&blob(b"the result").digest).unwrap(),
        b"the result"
    );
    assert!(other.find(2).is_some());
    assert!(
        other.store.read(&blob(&bytes).digest).unwrap() == bytes,
        "in parts and back"
    );

    // A second maker of the same sends its entry, which is refused as there, and no large blob.
    let second = machine(place, How::default());
    second.make(1, b"the result");
    second.make(2, &bytes);
    assert!(second.shared.traffic().bytes_out < 1000);
    assert!(second.warnings().is_empty());
    // F53: the second of two that differ compares and tells.
    second.make(9, b"one");
    let third = machine(place, How::default());
    third.make(9, b"two");
    assert!(third.warnings()[0].contains("has another result for action"));
    let stat = third.shared.stat().unwrap();
    assert_eq!(stat.entries, 3);

    let pulled = machine(place, reader());
    let moved = pulled.shared.pull(true, &mut |_| {});
    assert_eq!((moved.results, moved.left, moved.cut), (3, 0, false));
}
