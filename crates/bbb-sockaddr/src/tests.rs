//! Tables of templates with what they give on a made-up host, and properties of the whole language.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn entry(name: &str, index: u32, flags: Flags, address: &str) -> InterfaceAddress {
    let interface = Interface {
        index,
        mtu: if flags.loopback { 65536 } else { 1500 },
        name: name.to_owned(),
        hardware_address: if flags.broadcast { vec![2, 0, 0, 0, 0, 0x0a] } else { Vec::new() },
        flags,
    };
    InterfaceAddress { address: address.parse().unwrap(), interface: Arc::new(interface) }
}

/// A host with loopback, a private wired network (its default route), a public address, a container
/// bridge that is down and a tunnel.
fn host() -> Interfaces {
    let lo = Flags { up: true, loopback: true, running: true, ..Flags::default() };
    let wired =
        Flags { up: true, broadcast: true, multicast: true, running: true, ..Flags::default() };
    let down = Flags { broadcast: true, multicast: true, ..Flags::default() };
    let tunnel = Flags { up: true, point_to_point: true, ..Flags::default() };
    let addresses = vec![
        entry("lo", 1, lo, "127.0.0.1/8"),
        entry("lo", 1, lo, "::1/128"),
        entry("docker0", 4, down, "172.17.0.1/16"),
        entry("wan0", 3, wired, "8.8.4.4/29"),
        entry("eth0", 2, wired, "fd00:1::7/64"),
        entry("eth0", 2, wired, "10.20.30.40/20"),
        entry("eth0", 2, wired, "fe80::7/64"),
        entry("tun0", 5, tunnel, "192.168.9.2/30"),
    ];
    Interfaces::new(addresses, Some("eth0".to_owned()))
}

fn give(template: &str) -> String {
    match evaluate(template, &host()) {
        Ok(text) => text,
        Err(error) => panic!("{template}: {error}"),
    }
}

fn check(table: &[(&str, &str)]) {
    for (template, expected) in table {
        assert_eq!(give(template), *expected, "{template}");
    }
}

#[test]
fn sources() {
    check(&[
        ("{{ GetPrivateIP }}", "10.20.30.40"),
        ("{{GetPublicIP}}", "8.8.4.4"),
        ("{{ GetPrivateIPs }}", "172.17.0.1 10.20.30.40 192.168.9.2 fd00:1::7"),
        ("{{ GetPublicIPs }}", "8.8.4.4"),
        (r#"{{ GetInterfaceIP "eth0" }}"#, "10.20.30.40"),
        (r#"{{ GetInterfaceIPs "eth0" }}"#, "10.20.30.40 fd00:1::7 fe80::7"),
        (r#"{{ GetInterfaceIP "^lo$" }}"#, ""),
        (r#"{{ GetAllInterfaces | len }}"#, "8"),
        (r#"{{ GetDefaultInterfaces | join "address" " " }}"#, "fd00:1::7 10.20.30.40 fe80::7"),
        (r#"{{ GetPrivateInterfaces | join "name" "," }}"#, "eth0,eth0,tun0"),
        (r#"{{ GetPublicInterfaces | join "address" " " }}"#, "8.8.4.4"),
        (r#"{{ GetPrivateInterfaces | attr "broadcast" }}:9876"#, "10.20.31.255:9876"),
    ]);
    let empty = Interfaces::default();
    for template in ["{{ GetPrivateIP }}", "{{ GetPublicIPs }}", "{{ attr \"name\" . }}"] {
        assert_eq!(evaluate(template, &empty).unwrap(), "");
    }
    assert_eq!(evaluate("{{ GetDefaultInterfaces | len }}", &empty).unwrap(), "0");
}

#[test]
fn filters() {
    let table = [
        (r#"include "name" "^(eth|tun)0$""#, "fd00:1::7 10.20.30.40 fe80::7 192.168.9.2"),
        (r#"exclude "name" "0""#, "127.0.0.1 ::1"),
        (r#"include "address" "/(8|16)$""#, "127.0.0.1 172.17.0.1"),
        (r#"include "type" "IPv6""#, "::1 fd00:1::7 fe80::7"),
        (r#"exclude "type" "IPv6|UNIX""#, "127.0.0.1 172.17.0.1 8.8.4.4 10.20.30.40 192.168.9.2"),
        (r#"exclude "type" "ipv4|ipv6""#, ""),
        (r#"include "type" "ip" | exclude "TYPE" "ip""#, ""),
        (r#"include "flags" "down""#, "172.17.0.1"),
        (r#"include "flags" "up|broadcast""#, "8.8.4.4 fd00:1::7 10.20.30.40 fe80::7"),
        (r#"include "flag" "point-to-point""#, "192.168.9.2"),
        (r#"include "flag" "loopback""#, "127.0.0.1 ::1"),
        (r#"include "flag" "link-local unicast""#, "fe80::7"),
        (r#"exclude "flag" "global unicast""#, "127.0.0.1 ::1 fe80::7"),
        (r#"include "flag" "multicast" | exclude "flag" "up""#, "172.17.0.1"),
        (r#"include "flags" "forwardable" | include "flags" "loopback""#, ""),
        (r#"include "flags" "unspecified|interface-local multicast|link-local multicast""#, ""),
        (r#"include "network" "10.0.0.0/8""#, "10.20.30.40"),
        (r#"include "network" "192.168.0.0/16|10.0.0.0/8""#, "192.168.9.2 10.20.30.40"),
        (r#"exclude "network" "::/0|0.0.0.0/0""#, ""),
        (r#"include "network" "10.20.30.0/24""#, ""),
        (r#"include "rfc" "1918""#, "172.17.0.1 10.20.30.40 192.168.9.2"),
        (r#"include "rfcs" "4193|1918""#, "fd00:1::7 172.17.0.1 10.20.30.40 192.168.9.2"),
        (r#"exclude "rfc" "6890""#, "8.8.4.4"),
        (r#"include "size" "64""#, "fd00:1::7 fe80::7"),
        (r#"include "port" "^0$" | len | print"#, "8"),
    ];
    for (filter, expected) in table {
        let join = if filter.ends_with("print") { "" } else { r#" | join "address" " ""# };
        let template = format!("{{{{ . | {filter}{join} }}}}");
        assert_eq!(give(&template), expected, "{template}");
    }
}

#[test]
fn orders_and_cuts() {
    let table = [
        (r#"sort "type,address""#, "8.8.4.4 127.0.0.1 ::1 fd00:1::7"),
        (r#"sort "-type, -address""#, "fd00:1::7 ::1 127.0.0.1 8.8.4.4"),
        (r#"sort "type,size""#, "127.0.0.1 8.8.4.4 fd00:1::7 ::1"),
        (r#"sort "+name""#, "fd00:1::7 127.0.0.1 ::1 8.8.4.4"),
        (r#"sort "-name,type""#, "8.8.4.4 127.0.0.1 ::1 fd00:1::7"),
        (r#"sort "default""#, "fd00:1::7 127.0.0.1 ::1 8.8.4.4"),
        (r#"sort "-default,port""#, "127.0.0.1 ::1 8.8.4.4 fd00:1::7"),
        (r#"sort "type,-private""#, "8.8.4.4 127.0.0.1 ::1 fd00:1::7"),
        (r#"sort "name" | unique "name""#, "fd00:1::7 127.0.0.1 8.8.4.4"),
        (r#"unique "address""#, "127.0.0.1 ::1 8.8.4.4 fd00:1::7"),
        (r#"limit 1"#, "127.0.0.1"),
        (r#"limit 99"#, "127.0.0.1 ::1 8.8.4.4 fd00:1::7"),
        (r#"offset 3"#, "fd00:1::7"),
        (r#"offset "-2" | limit 1"#, "8.8.4.4"),
        (r#"offset -4 | limit 2.0"#, "127.0.0.1 ::1"),
    ];
    for (cut, expected) in table {
        let template = format!(
            r#"{{{{ exclude "name" "docker0|tun" . | exclude "address" "^fe80|^10" | {cut} | join "address" " " }}}}"#
        );
        assert_eq!(give(&template), expected, "{template}");
    }
}

#[test]
fn math() {
    let table = [
        ("127.0.0.1/8", "address", "+256", "127.0.1.1/8"),
        ("127.255.255.255/8", "address", "+1", "128.0.0.0/8"),
        ("0.0.0.1", "address", "-2", "255.255.255.255"),
        ("10.1.2.3/24", "network", "+2", "10.1.2.2/24"),
        ("10.1.2.3/24", "network", "-2", "10.1.2.254/24"),
        ("10.1.2.3/24", "network", "+258", "10.1.2.2/24"),
        ("10.1.2.3/24", "network", "-257", "10.1.2.255/24"),
        ("10.1.2.3/32", "network", "-7", "10.1.2.3"),
        ("192.168.10.20/24", "mask", "16", "192.168.0.0/16"),
        ("192.168.10.20/24", "mask", "28", "192.168.10.16/24"),
        ("::1", "address", "+16777217", "::100:2"),
        ("::1", "address", "-2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("fd00::1/64", "network", "-1", "fd00::ffff:ffff:ffff:ffff/64"),
        ("fd00::1/64", "network", "+0", "fd00::/64"),
        ("fd00::1:2:3/64", "mask", "48", "fd00::/48"),
    ];
    for (address, operation, value, expected) in table {
        let address: SockAddr = address.parse().unwrap();
        let result = address.math(operation, value).unwrap();
        assert_eq!(result.to_string(), expected, "{address} {operation} {value}");
    }
    for (operation, value) in [
        ("address", "1"),
        ("network", "1"),
        ("mask", "+3"),
        ("mask", "33"),
        ("address", "+4294967296"),
    ] {
        let address: SockAddr = "10.0.0.1/8".parse().unwrap();
        assert!(address.math(operation, value).is_err(), "{operation} {value}");
    }
    check(&[(
        r#"{{ GetPrivateInterfaces | math "network" "+1" | attr "string" }}"#,
        "10.20.16.1/20",
    )]);
}

#[test]
fn attributes() {
    let of_v4 = [
        ("name", "eth0"),
        ("flags", "up|broadcast|multicast|running"),
        ("string", "10.20.30.40/20"),
        ("type", "IPv4"),
        ("Address", "10.20.30.40"),
        ("host", "10.20.30.40"),
        ("port", "0"),
        ("network", "10.20.16.0"),
        ("netmask", "255.255.240.0"),
        ("mask_bits", "20"),
        ("size", "4096"),
        ("broadcast", "10.20.31.255"),
        ("first_usable", "10.20.16.1"),
        ("last_usable", "10.20.31.254"),
        ("octets", "10 20 30 40"),
        ("hex", "0a141e28"),
        ("binary", "00001010000101000001111000101000"),
        ("uint32", "169090600"),
    ];
    for (name, expected) in of_v4 {
        check(&[(&format!("{{{{ GetPrivateInterfaces | attr {name:?} }}}}"), expected)]);
        let template = format!(
            "{{{{range GetPrivateInterfaces}}}}{{{{ Attr {name:?} .}}}}{{{{break}}}}{{{{end}}}}"
        );
        check(&[(&template, expected)]);
    }
    let of_v6 = [
        ("string", "fd00:1::7/64"),
        ("type", "IPv6"),
        ("network", "fd00:1::"),
        ("netmask", "ffff:ffff:ffff:ffff::"),
        ("size", "18446744073709551616"),
        ("first_usable", "fd00:1::"),
        ("last_usable", "fd00:1::ffff:ffff:ffff:ffff"),
        ("hex", "fd000001000000000000000000000007"),
        ("uint128", "336294682967773389299692084323287236615"),
    ];
    for (name, expected) in of_v6 {
        if name == "uint128" {
            let number =
                u128::from_be_bytes("fd00:1::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
            check(&[(r#"{{ GetDefaultInterfaces | attr "uint128" }}"#, &number.to_string())]);
            continue;
        }
        check(&[(&format!("{{{{ GetDefaultInterfaces | attr {name:?} }}}}"), expected)]);
    }
    let unix = SockAddr::Unix { path: "/run/x".to_owned() };
    assert_eq!(unix.attribute("path").as_deref(), Some("/run/x"));
    assert_eq!(unix.attribute("address"), None);
    assert_eq!("10.0.0.1:80".parse::<SockAddr>().unwrap().attribute("port").as_deref(), Some("80"));
}

#[test]
fn syntax() {
    check(&[
        ("", ""),
        ("a } }} { b", "a } }} { b"),
        ("a {{- 1 -}} b", "a1b"),
        ("a {{1}} b", "a 1 b"),
        ("a {{- /* nothing -}} }} */ -}} b", "ab"),
        ("{{/* x */}}y", "y"),
        ("{{-3}}", "-3"),
        ("{{ \"a\\tb\\x41\\u00e9\\101\" }}", "a\tbAéA"),
        ("{{ `a\\n` }}", "a\\n"),
        (
            "{{ 'a' }} {{ '\\n' }} {{ 0x1F }} {{ 0b11 }} {{ 017 }} {{ 1_000 }} {{ 1.50 }} {{ 1e3 }}",
            "97 10 31 3 15 1000 1.5 1000",
        ),
        ("{{ true }} {{ not true }} {{ 1e30 }} {{ 1e-7 }}", "true false 1e+30 1e-07"),
        ("{{ (len (print `ab` `c`)) }}", "3"),
        ("{{ `x` | printf `%s-%s` `y` }}", "y-x"),
        ("{{ $x := 1 }}{{ $x = 2 }}{{ $x }}", "2"),
        ("{{ if false }}a{{ else if 1 }}b{{ else }}c{{ end }}", "b"),
        ("{{ if 0 }}a{{ else if `` }}b{{ else }}c{{ end }}", "c"),
        ("{{ with 5 }}{{ . }}{{ else }}none{{ end }}", "5"),
        ("{{ with `` }}a{{ else with 7 }}{{ . }}{{ end }}", "7"),
        ("{{ with $x := 3 }}{{ $x }}{{ end }}", "3"),
        ("{{ range 4 }}{{ . }}{{ end }}", "0123"),
        ("{{ range $i := 3 }}{{ $i }},{{ end }}", "0,1,2,"),
        (
            "{{ range 9 }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ if gt . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
            "013",
        ),
        ("{{ range 0 }}a{{ else }}none{{ end }}", "none"),
        (
            "{{ range $i, $a := limit 2 . }}{{ $i }}={{ $a.Name }}/{{ $a.Index }} {{ end }}",
            "0=lo/1 1=lo/1 ",
        ),
        ("{{ $n := 0 }}{{ range . }}{{ $n = .MTU }}{{ end }}{{ $n }}", "1500"),
        (
            "{{ define `t` }}<{{ . }}>{{ end }}{{ template `t` 4 }}{{ template `t` }}",
            "<4><<no value>>",
        ),
        ("{{ block `b` 5 }}[{{ . }}]{{ end }}{{ template `b` 6 }}", "[5][6]"),
        ("{{ $.Len }} {{ GetAllInterfaces.Len }} {{ (limit 3 .).Len }}", "8 8 3"),
        (
            "{{ with index . 5 }}{{ .Name }} {{ .SockAddr }} {{ .SockAddr.NetIP }} {{ .SockAddr.Maskbits }} \
          {{ .Flags }} {{ .HardwareAddr }} {{ .Interface.MTU }} {{ .Attr `size` }} {{ .SockAddr.Network }} \
          {{ .SockAddr.Octets }} {{ index .SockAddr.Octets 1 }} {{ .SockAddr.NetIP.IsPrivate }}{{ end }}",
            "eth0 10.20.30.40/20 10.20.30.40 20 up|broadcast|multicast|running 02:00:00:00:00:0a 1500 4096 \
          10.20.16.0/20 [10 20 30 40] 20 true",
        ),
        ("{{ (index . 0).Contains (index . 1) }}", "false"),
        ("{{ limit 1 . }}", "[127.0.0.1/8 {1 65536 lo  up|loopback|running}]"),
        ("{{\n  GetAllInterfaces\n  | include `name` `tun`\n  | attr `name`\n}}", "tun0"),
    ]);
}

#[test]
fn text_template_functions() {
    check(&[
        (
            "{{ and 1 0 2 }} {{ and 1 2 }} {{ or 0 `` 3 }} {{ 0 | or 0 }} {{ not 0 }}",
            "0 2 3 0 true",
        ),
        ("{{ or 1 (index . 99) }}", "1"),
        (
            "{{ eq 1 2 1 }} {{ ne `a` `b` }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt 1.5 2.5 }} {{ ge `b` `a` }}",
            "true true true true false true",
        ),
        (
            "{{ len `abc` }} {{ index `abc` 1 }} {{ slice `abcd` 1 3 }} {{ slice `abc` 2 }}",
            "3 98 bc c",
        ),
        ("{{ slice . 1 3 | join `name` `,` }}", "lo,docker0"),
        ("{{ print 1 2 `a` 3 4 `b` }}", "1 2a3 4b"),
        ("{{ println 1 `a` }}", "1 a\n"),
        ("{{ html `<a b='c'>&` }}", "&lt;a b=&#39;c&#39;&gt;&amp;"),
        ("{{ js `it's <b>` }}", "it\\'s \\u003Cb\\u003E"),
        ("{{ urlquery `a b/c?d=é` }}", "a+b%2Fc%3Fd%3D%C3%A9"),
        (
            "{{ printf `%d|%5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%U` 1 2 3 -4 5 255 255 8 5 65 65 }}",
            "1|    2|3    |-0004|+5|ff|FF|10|101|A|U+0041",
        ),
        (
            "{{ printf `%s|%8s|%-4s|%.2s|%q|%x|%v|%t|%%` `a` `b` `c` `def` `g\"` `hi` 1.5 true }}",
            "a|       b|c   |de|\"g\\\"\"|6869|1.5|true|%",
        ),
        (
            "{{ printf `%.2f %e %g %8.1f %*d` 1.005 15000.0 0.5 2.25 4 7 }}",
            "1.00 1.500000e+04 0.5      2.2    7",
        ),
        ("{{ printf `%v` (limit 1 . ) | len }}", "47"),
    ]);
}

#[test]
fn refusals_say_where_and_what() {
    let table = [
        ("{{", "column 1: action without end: }} is missing"),
        ("ab {{ }}", "column 7: missing value in action, found }}"),
        ("{{ nope }}", "column 4: unknown function \"nope\""),
        (
            "{{ getprivateip }}",
            "column 4: unknown function \"getprivateip\", did you mean GetPrivateIP?",
        ),
        ("{{ $x }}", "column 4: undefined variable \"$x\""),
        ("{{ if 1 }}{{ $x := 1 }}{{ end }}{{ $x }}", "column 36: undefined variable \"$x\""),
        ("{{ if 1 }}", "column 4: if without {{end}}"),
        ("a\n{{ end }}", "line 2, column 8: {{end}} without if"),
        ("{{ else }}", "{{else}} without if, range or with"),
        ("{{ break }}", "{{break}} outside of a range"),
        ("{{ 1 | 2 }}", "column 8: only a function, field or method can take a piped value"),
        ("{{ 1 2 }}", "column 4: only a function, field or method can take arguments"),
        ("{{ nil }}", "nil is no command"),
        ("{{ \"abc }}", "column 4: string without end"),
        ("{{ `abc }}", "column 4: raw string without end"),
        ("{{ \"\\z\" }}", "column 5: unknown escape sequence"),
        ("{{ 08 }}", "column 4: \"08\" is no number"),
        ("{{ 1i }}", "\"1i\" is no number"),
        ("{{ ! }}", "column 4: unexpected character '!'"),
        ("{{ (1 }}", "column 4: \"(\" without \")\""),
        ("{{ 1) }}", "column 5: unexpected \")\" in action"),
        ("{{ print`a` }}", "column 9: unexpected '`' after a name"),
        ("{{/* a }}", "comment without end"),
        ("{{ template `x` }}", "column 4: template \"x\" is not defined"),
        ("{{ define `a` }}{{ end }}{{ define `a` }}{{ end }}", "template \"a\" is defined twice"),
        ("{{ GetPrivateIP 1 }}", "column 4: GetPrivateIP takes no arguments, got 1"),
        ("{{ sort `nme` . }}", "column 4: sort: cannot sort by \"nme\""),
        (
            "{{ GetAllInterfaces | include `colour` `a` }}",
            "column 23: include: unknown selector \"colour\"",
        ),
        ("{{ include `flag` `wet` . }}", "unknown flag \"wet\": use one of broadcast, down"),
        ("{{ include `rfc` `1` . }}", "unknown RFC \"1\": use one of 919, "),
        ("{{ include `type` `ipx` . }}", "unknown type \"ipx\""),
        ("{{ include `size` `200` . }}", "\"200\" is no length of a network mask"),
        ("{{ include `network` `10.0.0.0/99` . }}", "is no IP address, network"),
        ("{{ include `name` `(` . }}", "is no regular expression for \"name\": unclosed group"),
        ("{{ attr `colour` . }}", "attr: IPv4 address 127.0.0.1/8 has no attribute \"colour\""),
        ("{{ offset 9 . }}", "offset: offset 9 is past the end of a list of 8"),
        ("{{ limit -1 . }}", "limit: the limit is negative"),
        ("{{ limit `x` . }}", "limit: argument 1 must be an integer, not a string"),
        ("{{ sort 1 . }}", "sort: argument 1 must be a string, not an integer"),
        ("{{ sort `name` 1 }}", "argument 2 must be a list of interface addresses, not an integer"),
        ("{{ math `address` `1` . }}", "needs a sign"),
        (
            "{{ .Name }}",
            "column 4: there is no field or method .Name in a list of interface addresses",
        ),
        ("{{ range `abc` }}{{ end }}", "cannot range over a string"),
        ("{{ eq 1 `a` }}", "eq: cannot compare an integer with a string"),
        ("{{ index . 8 }}", "index: index 8 is out of a range of 8"),
        ("{{ printf `%d` `a` }}", "printf: %d does not take a string"),
        ("{{ printf `%d` }}", "printf: no value is left for %d"),
        ("{{ printf `a` 1 }}", "printf: 1 values more than verbs"),
        ("{{ printf `%9999d` 1 }}", "widths go from 0 to 1000"),
        ("{{ call 1 }}", "call: an integer is no function value"),
    ];
    for (template, expected) in table {
        let error = evaluate(template, &host()).expect_err(template).to_string();
        assert!(error.contains(expected), "{template}\n  gave: {error}\n  not:  {expected}");
    }
}

#[test]
fn endless_and_enormous_templates_end() {
    let deep = |open: &str, close: &str, count| open.repeat(count) + "1" + &close.repeat(count);
    let nested = format!("{{{{ {} }}}}", deep("(", ")", 2_000));
    assert!(matches!(Template::parse(&nested), Err(ParseError::Syntax { .. })));
    let nested = deep("{{if 1}}", "{{end}}", 500);
    assert!(matches!(Template::parse(&nested), Err(ParseError::Syntax { .. })));
    assert_eq!(give(&deep("{{if 1}}", "{{end}}", 50)), "1");
    assert_eq!(give(&format!("{{{{ {} }}}}", deep("(print ", ")", 49))), "1");
    let call = format!("{{{{template `t` {}}}}}", deep("(print ", ")", 10));
    let body = "{{if 1}}".repeat(30) + &call + &"{{end}}".repeat(30);
    let recursive = format!("{{{{define `t`}}}}{body}{{{{end}}}}{call}");
    assert!(matches!(evaluate(&recursive, &host()), Err(Error::Eval(EvalError::TooMuch { .. }))));
    let long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
    assert!(matches!(Template::parse(&long), Err(ParseError::TooLong { .. })));
    for endless in [
        "{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}",
        "{{ range 9999999999 }}{{ end }}",
        "{{ range 9999 }}{{ range 9999 }}x{{ end }}{{ end }}",
        "{{ $x := `ab` }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}{{ $x }}",
        "{{ $x := `ab` }}{{ range 99 }}{{ $x = js $x $x }}{{ $x = join `name` $x $ }}{{ end }}",
        "{{ range 99999 }}{{ $y := printf `%999d` 1 }}{{ end }}",
        "{{ range 99999 }}{{ $y := include `name` `(a{99}){99}` $ }}{{ end }}",
    ] {
        let error = evaluate(endless, &host()).expect_err(endless);
        let told = error.to_string();
        assert!(told.contains("takes too long") || told.contains("regular expression"), "{told}");
    }
}

#[test]
fn an_interface_list_of_a_thousand_is_sorted() {
    let flags = Flags { up: true, ..Flags::default() };
    let many = (0..1_000u32).rev().map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        entry("v", number, flags, &format!("10.0.{high}.{low}/8"))
    });
    let host = Interfaces::new(many.collect(), None);
    let lowest = evaluate("{{ GetAllInterfaces | sort `type,address` | attr `address` }}", &host);
    assert_eq!(lowest.unwrap(), "10.0.0.0");
}

#[test]
fn this_host_has_interfaces() {
    let host = Interfaces::of_host().unwrap();
    let loopback = evaluate(r#"{{ GetAllInterfaces | include "flags" "loopback" | len }}"#, &host);
    let count: usize = loopback.unwrap().parse().unwrap();
    assert_eq!(
        host.addresses().iter().filter(|entry| entry.interface.flags.loopback).count(),
        count
    );
}

/// Words that make up templates, so that random ones get past the first character.
fn template() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "{{",
        "}}",
        "{{- ",
        " -}}",
        "{{/*",
        "*/}}",
        " ",
        "\n",
        "|",
        "(",
        ")",
        ".",
        ".Name",
        ".SockAddr",
        ".NetIP",
        "$",
        "$x",
        ":=",
        "=",
        ",",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "block",
        "template",
        "break",
        "continue",
        "nil",
        "true",
        "1",
        "-2",
        "1.5",
        "'a'",
        "\"name\"",
        "\"+1\"",
        "`address`",
        "`0`",
        "GetAllInterfaces",
        "GetPrivateIP",
        "sort",
        "include",
        "exclude",
        "attr",
        "join",
        "limit",
        "offset",
        "unique",
        "math",
        "and",
        "or",
        "not",
        "eq",
        "lt",
        "len",
        "index",
        "slice",
        "print",
        "printf",
        "`%5.2v%q`",
        "html",
        "js",
        "é",
        "\"",
        "`",
        "\\",
        "'",
    ]);
    let action = prop::collection::vec(words.clone(), 0..9)
        .prop_map(|words| format!("{{{{ {} }}}}", words.join(" ")));
    let piece = prop_oneof![3 => action, 2 => words.prop_map(str::to_owned), 1 => "[^{]{0,4}"];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn text_without_actions_is_itself(text in "([^{]|\\{[^{]){0,40}") {
        prop_assume!(!text.contains("{{"));
        prop_assert_eq!(evaluate(&text, &Interfaces::default()).unwrap(), text);
    }

    #[test]
    fn nothing_panics_and_evaluation_is_pure(text in template()) {
        let host = host();
        prop_assert_eq!(evaluate(&text, &host), evaluate(&text, &host));
    }

    #[test]
    fn nothing_panics_on_any_text(text in "\\PC*|\\{\\{\\PC*\\}\\}") {
        let _either = evaluate(&text, &host());
    }

    #[test]
    fn include_and_exclude_part_a_list(selector in prop::sample::select(vec![
        ("type", "ipv4|unix"), ("rfc", "1918|6890"), ("flag", "up|loopback"), ("flag", "down"),
        ("network", "10.0.0.0/8|fe80::/10"), ("name", "e|t"), ("size", "64"), ("port", "0"),
    ])) {
        let (name, value) = selector;
        let count = |function: &str| -> usize {
            give(&format!("{{{{ {function} `{name}` `{value}` . | len }}}}")).parse().unwrap()
        };
        prop_assert_eq!(count("include") + count("exclude"), host().addresses().len());
    }

    #[test]
    fn addresses_survive_their_text(bits: u128, prefix in 0u8..=128, v4: bool) {
        let address = if v4 {
            SockAddr::v4(std::net::Ipv4Addr::from_bits(bits as u32), prefix % 33)
        } else {
            SockAddr::of_ip(std::net::Ipv6Addr::from_bits(bits).into(), prefix)
        };
        prop_assert_eq!(address.to_string().parse::<SockAddr>().unwrap(), address);
    }

    #[test]
    fn math_never_panics_and_adding_is_undone(bits: u128, prefix in 0u8..=128, number: i32, v4: bool) {
        let address = if v4 {
            SockAddr::v4(std::net::Ipv4Addr::from_bits(bits as u32), prefix % 33)
        } else {
            SockAddr::v6(std::net::Ipv6Addr::from_bits(bits), prefix)
        };
        let there = address.math("address", &format!("{number:+}")).unwrap();
        let back = there.math("address", &format!("{:+}", -i64::from(number))).unwrap();
        prop_assert_eq!(&back, &address);
        let in_network = address.math("network", &format!("{number:+}")).unwrap();
        prop_assert_eq!(in_network.network(), address.network());
    }
}
