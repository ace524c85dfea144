//! A study with all its numbers.

use dagrun_expr::{Context, eval_text};
use dagrun_model::{
    Diagnostic, Map, OrderSpec, SamplerKind, Span, Study, Value, ValueTemplate, parse_duration,
};

use super::{Resolver, options::CODE as SAMPLER};
use crate::{Definition, Distribution, Goal, Order, Space, Stop, sampler};

const TRIALS: &str = "study-trials";
const ORDER: &str = "study-order";
const STOP: &str = "study-stop";
const ENQUEUE: &str = "study-enqueue";

/// Trials are counted in 32 bits.
const MOST_TRIALS: u64 = 4_000_000_000;

impl Definition {
    /// The definition of a study, with `params` from `ctx`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn resolve(study: &Study, ctx: &dyn Context) -> Result<Self, Vec<Diagnostic>> {
        let mut resolver = Resolver::new(ctx);
        let definition = resolver.definition(study);
        resolver.finish(definition)
    }
}

impl Resolver<'_> {
    fn definition(&mut self, study: &Study) -> Option<Definition> {
        let space = self.space(study);
        let whole = self.out.is_empty();
        let options = self.options(study);
        self.suits(study);
        if study.objectives.is_empty() {
            self.error(
                "study-objective",
                study.span,
                "the study seeks nothing",
                "write `minimize:` or `maximize:` with an expression",
            );
        }
        let enqueued = self.enqueued(study, &space, whole);
        let trials = self.trials(study, &options, &space, whole, enqueued.len() as u64);
        let in_flight = study
            .in_flight
            .as_ref()
            .map(|it| self.count("study-in-flight", "in_flight", it, 1, u64::from(u32::MAX)));
        let order = self.order(&study.order);
        let stop = self.stop(study, trials.unwrap_or(1));
        let goals = study.objectives.iter().map(|it| Goal {
            name: it.name.as_str().into(),
            direction: it.direction,
        });
        Some(Definition {
            space,
            sampler: study.sampler.kind.value,
            options,
            trials: trials?,
            in_flight: match in_flight {
                Some(count) => u32::try_from(count?).ok(),
                None => None,
            },
            order: order?,
            objectives: goals.collect(),
            stop,
            enqueued,
        })
    }

    /// Whether the sampler can do what is asked of it.
    fn suits(&mut self, study: &Study) {
        let kind = study.sampler.kind.value;
        if kind != SamplerKind::Cmaes {
            return;
        }
        if study.objectives.len() > 1 {
            self.error(
                SAMPLER,
                study.sampler.kind.span,
                "`cmaes` seeks one objective",
                "use `tpe`, or one expression that weighs them",
            );
        }
        for it in study.space.values() {
            let what = match (it.kind.value, &it.when) {
                (dagrun_model::DistributionKind::Choice, _) => "is no number",
                (_, Some(_)) => "is not always active",
                _ => continue,
            };
            self.error(
                SAMPLER,
                it.span,
                format!("`cmaes` cannot sample `{}`, which {what}", it.name.value),
                "use `tpe`, which can",
            );
        }
    }

    fn trials(
        &mut self,
        study: &Study,
        options: &Map,
        space: &Space,
        whole: bool,
        enqueued: u64,
    ) -> Option<u64> {
        let kind = study.sampler.kind.value;
        // Where the space is wrong a design would only be wrong once more.
        let size = whole
            .then(|| sampler::design_size(kind, options, space))
            .flatten();
        if let Some(Err(wrong)) = &size {
            self.error(
                SAMPLER,
                study.sampler.kind.span,
                format!("`{}` has no end: {wrong}", kind.name()),
                "give the others `levels`, such as `grid: {levels: 5}`",
            );
        }
        let is_null =
            matches!(&study.trials, ValueTemplate::Value(it) if matches!(it.value, Value::Null));
        if !is_null {
            return self.count(TRIALS, "trials", &study.trials, 1, MOST_TRIALS);
        }
        match size {
            Some(Ok(size)) if size.saturating_add(enqueued) > MOST_TRIALS => {
                self.error(
                    TRIALS,
                    study.sampler.kind.span,
                    format!("the design has {size} points"),
                    "write fewer `levels`, or `trials: N` for the first of them",
                );
                None
            }
            Some(Ok(size)) => Some(size + enqueued),
            Some(Err(_)) => None,
            None if !whole => None,
            None => {
                self.error(
                    TRIALS,
                    study.span,
                    "the study does not say how many trials there are",
                    "write `trials: 100`",
                );
                None
            }
        }
    }

    fn order(&mut self, order: &OrderSpec) -> Option<Order> {
        let most = u64::from(u32::MAX);
        let mut count = |what: &str, it: &ValueTemplate| {
            let count = self.count(ORDER, what, it, 1, most)?;
            u32::try_from(count).ok()
        };
        match order {
            OrderSpec::Async => Some(Order::Async),
            OrderSpec::Batched(n) => count("batched", n).map(Order::Batched),
            OrderSpec::Lag(lag) => count("lag", lag).map(Order::Lag),
        }
    }

    fn stop(&mut self, study: &Study, trials: u64) -> Stop {
        let mut stop = Stop::for_trials(trials);
        let written = &study.stop;
        if let Some(wall) = &written.wall {
            stop.wall = self.wall(wall);
        }
        if let Some(failures) = &written.failures
            && let Some(count) = self.count(STOP, "failures", failures, 1, u64::MAX >> 1)
        {
            stop.failures = count;
        }
        if let Some(no_gain) = &written.no_gain {
            self.single(study, "no_gain", no_gain.span());
            stop.no_gain = self.count(STOP, "no_gain", no_gain, 1, u64::MAX >> 1);
        }
        if let Some(target) = &written.target {
            self.single(study, "target", target.span());
            let value = self.value(target);
            stop.target = value
                .as_ref()
                .and_then(Value::as_f64)
                .filter(|it| it.is_finite());
            if let (Some(value), None) = (value, stop.target) {
                self.error(
                    STOP,
                    target.span(),
                    format!("`target` is {}", value.to_text()),
                    "write a number",
                );
            }
        }
        stop
    }

    fn wall(&mut self, wall: &dagrun_model::Template) -> Option<std::time::Duration> {
        let text = eval_text(wall, self.ctx)
            .map_err(|error| self.out.push(error.to_diagnostic(wall.span)))
            .ok()?;
        match parse_duration(&text) {
            Ok(time) if !time.is_zero() => Some(time),
            Ok(_) => {
                self.error(STOP, wall.span, "`wall` is no time at all", "write `4h`");
                None
            }
            Err(wrong) => {
                self.error(STOP, wall.span, format!("`wall`: {wrong}"), "write `4h`");
                None
            }
        }
    }

    /// With several objectives there is no best trial that a rule could look at.
    fn single(&mut self, study: &Study, rule: &str, span: Span) {
        if study.objectives.len() > 1 {
            self.error(
                STOP,
                span,
                format!("`{rule}` needs one objective, and the study has several"),
                "use `trials`, `wall` or `failures`, or one expression that weighs them",
            );
        }
    }

    fn enqueued(&mut self, study: &Study, space: &Space, whole: bool) -> Vec<Vec<Option<f64>>> {
        let points = study.enqueue.iter().map(|it| {
            let value = self.value(it)?;
            let Some(map) = value.as_map() else {
                self.error(
                    ENQUEUE,
                    it.span(),
                    format!("a point of `enqueue` is a {}", value.type_name()),
                    "write a map from parameters to values",
                );
                return None;
            };
            let mut point = vec![None; space.dims()];
            for (name, value) in map {
                if let Some((at, x)) = self.coordinate(study, space, whole, it, name, value) {
                    point[at] = Some(x);
                }
            }
            Some(point)
        });
        points.flatten().collect()
    }

    fn coordinate(
        &mut self,
        study: &Study,
        space: &Space,
        whole: bool,
        written: &ValueTemplate,
        name: &str,
        value: &Value,
    ) -> Option<(usize, f64)> {
        let span = entry_span(written, name);
        let Some(at) = space.position(name) else {
            // A parameter that is wrong itself has its own message.
            if whole || !study.space.contains_key(name) {
                self.error(ENQUEUE, span, space.unknown(name), "leave it out");
            }
            return None;
        };
        let parameter = &space.parameters[at];
        match parameter.coordinate(value) {
            Ok(x) => Some((at, x)),
            Err(wrong) => {
                let help = match &parameter.distribution {
                    Distribution::Choice(_) => "add the value to the choice, or leave it out",
                    _ => "widen the bounds in `space`, or leave it out",
                };
                self.error(ENQUEUE, span, wrong, help);
                None
            }
        }
    }
}

/// Where the value of a name stands, as near as it is known.
fn entry_span(written: &ValueTemplate, name: &str) -> Span {
    let entry = match written {
        ValueTemplate::Map(entries, _) => entries.iter().find(|(key, _)| &**key == name),
        _ => None,
    };
    entry.map_or_else(|| written.span(), |(_, it)| it.span())
}
