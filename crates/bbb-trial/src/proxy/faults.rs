//! Which faults are in force, and what becomes of one request under them. Pure: chance and time come from outside.

use std::{fmt, time::Duration};

use http::Uri;

use super::kind::{Kind, parameters};

/// Faults in force. The default is none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Faults {
    /// Every request waits this long first.
    pub latency: Duration,
    /// How many of 100 requests meet each of the faults of chance.
    pub chances: [f64; Chance::ALL.len()],
    /// Every connection is reset, and so is what is under way.
    pub outage: bool,
    /// What takes room is refused with this status: 507, as MinIO says it, or 403, as Ceph does.
    pub full: Option<u16>,
    /// The faults of chance meet these kinds only; all when empty.
    pub only: Vec<Kind>,
    /// After this time there are no faults any more.
    pub lasting: Option<Duration>,
}

/// A fault that meets some requests by chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chance {
    /// 500 InternalError, without the server having seen the request.
    Error,
    /// 503 SlowDown, likewise.
    SlowDown,
    /// The connection is reset before the server has seen the request.
    ResetBefore,
    /// The server does what it was asked, and its answer is lost: the connection is reset.
    LostResponse,
    /// Half of an object's bytes arrive, then the connection ends. Reads only.
    Truncate,
    /// One bit of an object's bytes is another one. Reads only.
    Corrupt,
}

impl Chance {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Error,
        Self::SlowDown,
        Self::ResetBefore,
        Self::LostResponse,
        Self::Truncate,
        Self::Corrupt,
    ];

    /// Its name in the parameters of `/faults` and in counts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::SlowDown => "slow_down",
            Self::ResetBefore => "reset_before",
            Self::LostResponse => "lost_response",
            Self::Truncate => "truncate",
            Self::Corrupt => "corrupt",
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing happens to it.
    Pass,
    /// A fault of chance meets it.
    Meets(Chance),
    /// Refused with this status, for want of room.
    Full(u16),
    /// The server cannot be reached.
    Outage,
}

impl Fate {
    /// Its name in counts; none for what passes.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Pass => None,
            Self::Meets(chance) => Some(chance.name()),
            Self::Full(_) => Some("full"),
            Self::Outage => Some("outage"),
        }
    }
}

impl Faults {
    /// Reads them from the parameters of a query: `latency_ms=100&error=5&only=put,part&for_s=60`.
    ///
    /// # Errors
    /// A sentence about the parameter that is unknown or wrong.
    pub fn parse(uri: &Uri) -> Result<Self, String> {
        let mut faults = Self::default();
        for (name, value) in parameters(uri) {
            let wrong = |want| format!("{name} is '{value}', want {want}");
            match name {
                "latency_ms" => {
                    let milliseconds = value.parse().map_err(|_| wrong("milliseconds"))?;
                    faults.latency = Duration::from_millis(milliseconds);
                }
                "for_s" => {
                    let seconds = value.parse().map_err(|_| wrong("seconds"))?;
                    faults.lasting = Some(Duration::from_secs(seconds));
                }
                "outage" => faults.outage = value.parse().map_err(|_| wrong("true or false"))?,
                "full" if ["507", "403"].contains(&value) => faults.full = value.parse().ok(),
                "full" => return Err(wrong("507 or 403")),
                "only" => {
                    let kinds = value.split(',').map(Kind::named).collect::<Option<_>>();
                    faults.only =
                        kinds.ok_or_else(|| wrong("kinds of requests, as in 'put,part'"))?;
                }
                _ => {
                    let chance = Chance::ALL.into_iter().position(|chance| chance.name() == name);
                    let chance = chance.ok_or_else(|| format!("there is no fault '{name}'"))?;
                    let percent =
                        value.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
                    faults.chances[chance] = percent.ok_or_else(|| wrong("0 to 100"))?;
                }
            }
        }
        let sum: f64 = faults.chances.iter().sum();
        if sum > 100.0 {
            return Err(format!("faults of chance add up to {sum} of 100 requests"));
        }
        Ok(faults)
    }

    /// What becomes of a request for which the dice say `roll`, at least 0 and below 100.
    pub fn fate(&self, kind: Kind, roll: f64) -> Fate {
        if self.outage {
            return Fate::Outage;
        }
        if let Some(status) = self.full.filter(|_| kind.adds()) {
            return Fate::Full(status);
        }
        if !self.only.is_empty() && !self.only.contains(&kind) {
            return Fate::Pass;
        }
        let mut below = 0.0;
        for (chance, percent) in Chance::ALL.into_iter().zip(self.chances) {
            below += percent;
            if roll < below {
                let of_reads = matches!(chance, Chance::Truncate | Chance::Corrupt);
                return if of_reads && kind != Kind::Get {
                    Fate::Pass
                } else {
                    Fate::Meets(chance)
                };
            }
        }
        Fate::Pass
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("none");
        }
        write!(f, "latency_ms={} outage={}", self.latency.as_millis(), self.outage)?;
        for (chance, percent) in Chance::ALL.into_iter().zip(self.chances) {
            write!(f, " {}={percent}", chance.name())?;
        }
        if let Some(status) = self.full {
            write!(f, " full={status}")?;
        }
        for (index, kind) in self.only.iter().enumerate() {
            write!(f, "{}{kind}", if index == 0 { " only=" } else { "," })?;
        }
        self.lasting.map_or(Ok(()), |lasting| write!(f, " for_s={}", lasting.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Faults, String> {
        Faults::parse(&text.parse::<Uri>().unwrap())
    }

    #[test]
    fn what_is_said_is_in_force() {
        let faults =
            parse("/faults?latency_ms=100&error=5&corrupt=0.5&only=get,part&full=507&for_s=60")
                .unwrap();
        assert_eq!(faults.latency, Duration::from_millis(100));
        assert_eq!(faults.lasting, Some(Duration::from_secs(60)));
        assert_eq!(
            faults.to_string(),
            "latency_ms=100 outage=false error=5 slow_down=0 reset_before=0 lost_response=0 \
             truncate=0 corrupt=0.5 full=507 only=get,part for_s=60"
        );
        assert_eq!(parse("/faults").unwrap().to_string(), "none");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "?latency=1",
            "?error=101",
            "?error=-1",
            "?error=60&slow_down=60",
            "?only=steal",
            "?full=500",
        ] {
            assert!(parse(&format!("/faults{text}")).is_err(), "{text}");
        }
    }

    #[test]
    fn each_chance_gets_its_share() {
        let faults = parse("/?error=10&slow_down=20&lost_response=30").unwrap();
        let at = |roll| faults.fate(Kind::Put, roll);
        assert_eq!(at(9.9), Fate::Meets(Chance::Error));
        assert_eq!(at(10.0), Fate::Meets(Chance::SlowDown));
        assert_eq!(at(59.9), Fate::Meets(Chance::LostResponse));
        assert_eq!(at(60.0), Fate::Pass);
    }

    #[test]
    fn only_reads_can_come_damaged() {
        let faults = parse("/?corrupt=100").unwrap();
        assert_eq!(faults.fate(Kind::Get, 50.0), Fate::Meets(Chance::Corrupt));
        assert_eq!(faults.fate(Kind::Put, 50.0), Fate::Pass);
    }

    #[test]
    fn a_full_bucket_can_be_read() {
        let faults = parse("/?full=507").unwrap();
        assert_eq!(faults.fate(Kind::Put, 50.0), Fate::Full(507));
        assert_eq!(faults.fate(Kind::Part, 50.0), Fate::Full(507));
        assert_eq!(faults.fate(Kind::Get, 50.0), Fate::Pass);
        assert_eq!(faults.fate(Kind::Delete, 50.0), Fate::Pass);
    }

    #[test]
    fn other_kinds_are_left_alone() {
        let faults = parse("/?error=100&only=put").unwrap();
        assert_eq!(faults.fate(Kind::Put, 0.0), Fate::Meets(Chance::Error));
        assert_eq!(faults.fate(Kind::Get, 0.0), Fate::Pass);
    }
}
