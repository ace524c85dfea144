//! Studies whose trials end in any order, fail, are told twice, and are killed anywhere.

use super::*;

fn orders(chance: &mut Chance) -> Order {
    match chance.below(3) {
        0 => Order::Async,
        1 => Order::Batched(1 + chance.below(7) as u32),
        _ => Order::Lag(1 + chance.below(12) as u32),
    }
}

fn any_study(chance: &mut Chance) -> Definition {
    let trials = 1 + chance.below(40) as u64;
    let mut study = definition(orders(chance), trials);
    study.in_flight = Some(1 + chance.below(9) as u32);
    study.stop.failures = 3 + chance.below(20) as u64;
    if chance.below(3) == 0 {
        study.stop.no_gain = Some(2 + chance.below(15) as u64);
    }
    if chance.below(3) == 0 {
        study.stop.target = Some(0.02);
    }
    if chance.below(3) == 0 {
        study.enqueued = vec![
            vec![Some(0.5), Some(0.5), Some(2.0), Some(0.0)],
            vec![None, Some(0.1), None, None],
        ];
    }
    study
}

/// What has to hold of a log, whatever happened.
fn check_log(log: &[StudyRecord], definition: &Definition) {
    let (mut asked, mut told) = (0, std::collections::BTreeSet::new());
    for record in log {
        match record {
            StudyRecord::Asked { trial, .. } => {
                asked += 1;
                assert_eq!(*trial, asked, "numbers have no gaps");
            }
            StudyRecord::Told { trial, .. } => {
                assert!(*trial <= asked, "told after it was asked");
                assert!(told.insert(*trial), "trial {trial} is told once");
            }
            _ => {}
        }
    }
    assert!(asked <= definition.trials);
    assert_eq!(told.len() as u64, asked, "every trial is told");
}

#[test]
fn any_order_of_ends_gives_a_whole_study() {
    for seed in 0..300 {
        let mut chance = Chance(seed << 20);
        let definition = any_study(&mut chance);
        let mut driver = Driver::new(definition.clone());
        driver.slots();
        while driver.end.is_none() {
            let trials: Vec<u64> = driver.live.keys().copied().collect();
            let trial = trials[chance.below(trials.len())];
            driver.run(trial);
            if driver.end.is_none() && chance.below(3) == 0 {
                let late = 1 + chance.below(60) as u64;
                if !driver.live.contains_key(&late) {
                    assert_eq!(driver.tell(late, Ok(0.0)), "", "late or unknown");
                }
            }
        }
        check_log(&driver.log, &definition);
        let limit = definition.in_flight.expect("it is given") as usize;
        assert!(driver.most_live <= limit, "seed {seed}");
        if let Some(StudyEnd { reason, .. }) = &driver.end
            && *reason == crate::EndReason::Trials
        {
            assert_eq!(driver.study.counts().asked, definition.trials);
        }
    }
}

#[test]
fn a_study_killed_after_any_record_goes_on_as_if_it_was_not() {
    for seed in 0..40 {
        let mut chance = Chance(seed << 20 | 1 << 60);
        let definition = any_study(&mut chance);
        let mut whole = Driver::new(definition.clone());
        // How the study looked at each length of the log that an event left behind.
        let mut pictures = BTreeMap::new();
        whole.slots();
        while whole.end.is_none() {
            pictures.insert(whole.log.len(), picture(&whole.study));
            let trials: Vec<u64> = whole.live.keys().copied().collect();
            whole.run(trials[chance.below(trials.len())]);
        }
        pictures.insert(whole.log.len(), picture(&whole.study));
        for cut in 0..=whole.log.len() {
            let mut later = definition.clone();
            later.in_flight = Some(1 + chance.below(9) as u32);
            let mut second = Driver::resumed(later.clone(), &whole.log[..cut]);
            if let Some(expected) = pictures.get(&cut) {
                assert_eq!(&picture(&second.study), expected, "seed {seed} cut {cut}");
            }
            second.finish(&mut chance);
            let limit = later.in_flight.expect("it is given") as usize;
            assert!(second.most_live <= limit, "seed {seed} cut {cut}");
            check_log(&second.log, &definition);
            if definition.order != Order::Async {
                assert_eq!(second.points(), whole.points(), "seed {seed} cut {cut}");
                assert_eq!(second.study.best(), whole.study.best());
                assert_eq!(second.end, whole.end, "seed {seed} cut {cut}");
            }
        }
        let again = Driver::resumed(definition, &whole.log);
        assert_eq!(
            again.study.last_end(),
            whole.end.as_ref().map(|it| &it.reason)
        );
    }
}

#[test]
fn a_finished_study_that_is_resumed_only_says_so() {
    let mut whole = Driver::new(definition(Order::Lag(3), 8));
    whole.finish(&mut Chance(1));
    let mut again = Driver::resumed(definition(Order::Lag(3), 8), &whole.log);
    assert!(again.slots().starts_with("finish, best"));
    assert_eq!(again.log, whole.log);
    // More trials go on where it ended.
    let mut more = Driver::resumed(definition(Order::Lag(3), 11), &whole.log);
    assert!(
        more.slots()
            .starts_with("Trials { trials: 11 }; asked 9 seen 6")
    );
    more.finish(&mut Chance(2));
    let read = Study::read(more.log.clone()).expect("the log is whole");
    assert_eq!(read.definition().trials, 11);
    let mut at_once = Driver::new(definition(Order::Lag(3), 11));
    at_once.finish(&mut Chance(3));
    assert_eq!(more.points(), at_once.points());
}

fn points(order: Order, seed: u64) -> Vec<Vec<u64>> {
    let mut study = definition(order, 60);
    study.in_flight = Some(8);
    let mut driver = Driver::new(study);
    driver.finish(&mut Chance(seed << 20));
    driver.points()
}

#[test]
fn a_lagged_study_is_the_same_under_any_order_of_ends() {
    for order in [
        Order::Lag(1),
        Order::Lag(8),
        Order::Lag(16),
        Order::Batched(8),
        Order::Batched(3),
    ] {
        let first = points(order, 0);
        assert_eq!(first.len(), 60);
        for seed in 1..20 {
            assert_eq!(
                points(order, seed),
                first,
                "{order:?}, order of ends {seed}"
            );
        }
    }
}

#[test]
fn an_asynchronous_study_is_not_the_same() {
    let (first, second) = (points(Order::Async, 0), points(Order::Async, 1));
    let equal = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!((8..60).contains(&equal), "{equal} of 60 points are equal");
}

#[test]
fn slots_do_not_change_a_lagged_study() {
    let mut all = Vec::new();
    for in_flight in [1, 3, 16, 50] {
        let mut study = definition(Order::Lag(5), 40);
        study.in_flight = Some(in_flight);
        study.stop.no_gain = Some(12);
        let mut driver = Driver::new(study);
        driver.finish(&mut Chance(7));
        assert!(driver.most_live <= 5, "no more than the lag are under way");
        all.push((driver.points(), driver.end.map(|end| end.reason)));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Another process that proposes points: it knows what it was told since it was started, and what is pending.
#[derive(Default)]
struct Outside {
    told: Vec<(u64, Option<u64>)>,
}

impl Outside {
    fn answer(&self, space: &Space, pending: &[u64]) -> Answer {
        let mut state = pending.len() as u64;
        let mut mix = |x: u64| state = draw(state, x, 0).to_bits();
        for (trial, value) in &self.told {
            mix(*trial);
            mix(value.unwrap_or(1));
        }
        pending.iter().for_each(|trial| mix(!trial));
        let parameters = space.parameters.iter().zip(0..);
        let point: Vec<f64> = parameters
            .map(|(it, at)| it.from_unit(draw(state, 1, at)))
            .collect();
        Answer::Point(space.values(&point))
    }
}

/// Runs a study with an external sampler that answers late, and is started anew now and then.
fn outside_points(order: Order, seed: u64) -> Vec<Vec<u64>> {
    let mut chance = Chance(seed << 20);
    let mut study = definition(order, 40);
    study.sampler = SamplerKind::Exec;
    study.in_flight = Some(6);
    let mut machine = Study::with_maker(study, mixer);
    let (mut actions, mut live, mut ask) = (Vec::new(), Vec::new(), None);
    let mut sampler = Outside::default();
    machine.handle(
        StudyEvent::Slots {
            slots: 1,
            nodes_per_trial: 1,
        },
        &mut actions,
    );
    while !machine.is_finished() {
        for action in actions.drain(..) {
            match action {
                StudyAction::Start { trial, values } => live.push((trial, values)),
                StudyAction::Ask {
                    trial,
                    new_told,
                    pending,
                } => {
                    assert_eq!(new_told.start, sampler.told.len(), "it is told all, once");
                    sampler.told.extend(new_told.map(|at| {
                        let told = machine.history().get(at);
                        (told.trial, told.values.map(|values| values[0].to_bits()))
                    }));
                    ask = Some((trial, pending));
                }
                _ => {}
            }
        }
        let event = match (&ask, chance.below(8)) {
            (Some(_), 0) => {
                sampler = Outside::default();
                StudyEvent::SamplerRestarted
            }
            (Some((trial, pending)), luck) if luck < 4 || live.is_empty() => {
                let (trial, answer) = (*trial, sampler.answer(&space(), pending));
                ask = None;
                StudyEvent::Answered { trial, answer }
            }
            _ => {
                let (trial, values) = live.swap_remove(chance.below(live.len()));
                let end = outcome(&values);
                StudyEvent::Ended { trial, end }
            }
        };
        machine.handle(event, &mut actions);
    }
    assert_eq!(machine.counts().told, 40);
    let rows = machine.rows();
    rows.map(|row| row.point.iter().map(|x| x.to_bits()).collect())
        .collect()
}

#[test]
fn an_external_sampler_is_repeatable_with_lag_and_not_without() {
    for order in [Order::Lag(7), Order::Batched(4)] {
        let first = outside_points(order, 0);
        for seed in 1..20 {
            assert_eq!(outside_points(order, seed), first, "{order:?} {seed}");
        }
    }
    assert_ne!(
        outside_points(Order::Async, 0),
        outside_points(Order::Async, 1)
    );
}
