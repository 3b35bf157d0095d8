//! Host values: go-sockaddr templates and what they give on a machine.

use std::net::{IpAddr, Ipv4Addr};

use super::{defaults::Machine, refusal::Refusal};

/// What a host is where its flag is not given.
pub(super) const PRIVATE_IP: &str = "{{ GetPrivateIP }}";

/// What a template gives, without white space around it.
pub(super) fn evaluate(
    flag: &'static str,
    template: &str,
    machine: &Machine,
) -> Result<String, Refusal> {
    match bbb_sockaddr::evaluate(template, &machine.interfaces) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(Refusal::value(flag, template, error.to_string())),
    }
}

/// The IP address that a host template gives, none where it gives nothing.
pub(super) fn host_of(
    flag: &'static str,
    template: &str,
    machine: &Machine,
) -> Result<Option<IpAddr>, Refusal> {
    let text = evaluate(flag, template, machine)?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
    match bare {
        "" => Ok(None),
        "localhost" => Ok(Some(Ipv4Addr::LOCALHOST.into())),
        bare => bare.parse().map(Some).map_err(|_| {
            let many = text.split_whitespace().count() > 1;
            let advice = if many { "use one IP address (| limit 1)" } else { "use an IP address" };
            let gives =
                if template.trim() == text { String::new() } else { format!("gives {text:?}, ") };
            Refusal::value(flag, template, format!("{gives}{advice} or a template that gives one"))
        }),
    }
}
