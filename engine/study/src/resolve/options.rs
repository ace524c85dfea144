//! The options of samplers: which there are, and what they take.

use dagrun_model::{Map, SamplerKind, Study, Value, did_you_mean};

use super::Resolver;

pub(super) const CODE: &str = "study-sampler";

/// What an option takes.
#[derive(Clone, Copy)]
enum Takes {
    /// A whole number of at least this.
    Whole(i64),
    /// A number above 0.
    Positive,
    /// Text.
    Text,
    /// A time above 0.
    Time,
    /// A map.
    Map,
    /// A list of at least one text.
    Words,
    /// A whole number of at least 1, or a map from parameters to such.
    Levels,
}

const TIMEOUT: (&str, Takes) = ("timeout", Takes::Time);
const SEED: (&str, Takes) = ("seed", Takes::Whole(0));

fn options(kind: SamplerKind) -> &'static [(&'static str, Takes)] {
    match kind {
        SamplerKind::Grid => &[("levels", Takes::Levels)],
        SamplerKind::Random | SamplerKind::Sobol | SamplerKind::Lhs => &[SEED],
        SamplerKind::Tpe => &[
            SEED,
            ("startup", Takes::Whole(0)),
            ("candidates", Takes::Whole(1)),
        ],
        SamplerKind::Cmaes => &[
            SEED,
            ("population", Takes::Whole(2)),
            ("sigma", Takes::Positive),
        ],
        SamplerKind::Optuna => &[
            ("sampler", Takes::Text),
            SEED,
            ("storage", Takes::Text),
            ("python", Takes::Text),
            ("options", Takes::Map),
            TIMEOUT,
        ],
        SamplerKind::Exec => &[("command", Takes::Words), TIMEOUT],
    }
}

impl Takes {
    fn words(self) -> String {
        match self {
            Self::Whole(least) => format!("a whole number of at least {least}"),
            Self::Positive => "a number above 0".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Time => "a time above 0, such as `90s` or `5m`".to_owned(),
            Self::Map => "a map".to_owned(),
            Self::Words => "a list: a program and its arguments".to_owned(),
            Self::Levels => {
                "a whole number of at least 1, or a map from parameters to such".to_owned()
            }
        }
    }

    fn accepts(self, value: &Value) -> bool {
        let level = |value: &Value| value.as_i64().is_some_and(|it| it >= 1);
        match self {
            Self::Whole(least) => value.as_i64().is_some_and(|it| it >= least),
            Self::Positive => value.as_f64().is_some_and(|it| it > 0.0 && it.is_finite()),
            Self::Text => value.as_str().is_some_and(|it| !it.is_empty()),
            Self::Time => super::seconds(value).is_some_and(|it| it > 0.0),
            Self::Map => value.as_map().is_some(),
            Self::Words => value.as_list().is_some_and(|items| {
                !items.is_empty()
                    && items.iter().all(|it| {
                        !matches!(it.typed(), Value::Null | Value::List(_) | Value::Map(_))
                    })
            }),
            Self::Levels => match value.as_map() {
                Some(map) => map.values().all(level),
                None => level(value),
            },
        }
    }
}

impl Resolver<'_> {
    /// The options that were written, with names and types as they have to be, and the seed.
    pub(super) fn options(&mut self, study: &Study) -> Map {
        let kind = study.sampler.kind.value;
        let known = options(kind);
        let mut resolved = Map::new();
        for (name, template) in &study.sampler.options {
            let Some((_, takes)) = known.iter().find(|(known, _)| known == name) else {
                let help = match did_you_mean(name, known.iter().map(|(name, _)| *name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it has {}", kind.arguments()),
                };
                let message = format!("the sampler `{}` has no option `{name}`", kind.name());
                self.error(CODE, template.span(), message, help);
                continue;
            };
            let Some(value) = self.value(template) else {
                continue;
            };
            if !takes.accepts(&value) {
                let message = format!("`{name}` of the sampler is {}", value.to_text());
                self.error(
                    CODE,
                    template.span(),
                    message,
                    format!("it takes {}", takes.words()),
                );
                continue;
            }
            self.level_names(study, template, &value, *takes);
            resolved.insert(name.as_str().into(), value);
        }
        if known.iter().any(|(name, _)| *name == "seed") {
            resolved.entry("seed".into()).or_insert(Value::Int(0));
        }
        // One order, so that options written in another one are the same study.
        resolved.sort_keys();
        self.needed(study, &resolved);
        resolved
    }

    /// Levels are of parameters that there are.
    fn level_names(
        &mut self,
        study: &Study,
        template: &dagrun_model::ValueTemplate,
        value: &Value,
        takes: Takes,
    ) {
        let (Takes::Levels, Some(levels)) = (takes, value.as_map()) else {
            return;
        };
        for name in levels.keys().filter(|it| !study.space.contains_key(&***it)) {
            self.error(
                CODE,
                template.span(),
                format!("`levels` names `{name}`, which is not a parameter of the space"),
                "name parameters of `space`",
            );
        }
    }

    fn needed(&mut self, study: &Study, options: &Map) {
        let span = study.sampler.kind.span;
        let written = &study.sampler.options;
        if study.sampler.kind.value == SamplerKind::Exec
            && !options.contains_key("command")
            && !written.contains_key("command")
        {
            self.error(
                CODE,
                span,
                "the sampler `exec` names no program",
                "write `exec: [program, argument]`",
            );
        }
    }
}
