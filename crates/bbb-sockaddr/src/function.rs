//! The names of all functions, and what each takes.
//!
//! Promises: a name that is not here is refused when the template is parsed.

/// A function of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    GetAllInterfaces,
    GetDefaultInterfaces,
    GetPrivateInterfaces,
    GetPublicInterfaces,
    GetPrivateIp,
    GetPrivateIps,
    GetPublicIp,
    GetPublicIps,
    GetInterfaceIp,
    GetInterfaceIps,
    Include,
    Exclude,
    Sort,
    Attr,
    Join,
    Limit,
    Offset,
    Unique,
    Math,
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Html,
    Js,
    UrlQuery,
    Call,
}

/// Name, function, and how many arguments it takes at least and at most.
const FUNCTIONS: &[(&str, Function, usize, usize)] = &[
    ("GetAllInterfaces", Function::GetAllInterfaces, 0, 0),
    ("GetDefaultInterfaces", Function::GetDefaultInterfaces, 0, 0),
    ("GetPrivateInterfaces", Function::GetPrivateInterfaces, 0, 0),
    ("GetPublicInterfaces", Function::GetPublicInterfaces, 0, 0),
    ("GetPrivateIP", Function::GetPrivateIp, 0, 0),
    ("GetPrivateIPs", Function::GetPrivateIps, 0, 0),
    ("GetPublicIP", Function::GetPublicIp, 0, 0),
    ("GetPublicIPs", Function::GetPublicIps, 0, 0),
    ("GetInterfaceIP", Function::GetInterfaceIp, 1, 1),
    ("GetInterfaceIPs", Function::GetInterfaceIps, 1, 1),
    ("include", Function::Include, 3, 3),
    ("exclude", Function::Exclude, 3, 3),
    ("sort", Function::Sort, 2, 2),
    ("attr", Function::Attr, 2, 2),
    // The documentation's name for `attr` on a single address.
    ("Attr", Function::Attr, 2, 2),
    ("join", Function::Join, 3, 3),
    ("limit", Function::Limit, 2, 2),
    ("offset", Function::Offset, 2, 2),
    ("unique", Function::Unique, 2, 2),
    ("math", Function::Math, 3, 3),
    ("and", Function::And, 1, usize::MAX),
    ("or", Function::Or, 1, usize::MAX),
    ("not", Function::Not, 1, 1),
    ("eq", Function::Eq, 2, usize::MAX),
    ("ne", Function::Ne, 2, 2),
    ("lt", Function::Lt, 2, 2),
    ("le", Function::Le, 2, 2),
    ("gt", Function::Gt, 2, 2),
    ("ge", Function::Ge, 2, 2),
    ("len", Function::Len, 1, 1),
    ("index", Function::Index, 1, usize::MAX),
    ("slice", Function::Slice, 1, 4),
    ("print", Function::Print, 0, usize::MAX),
    ("printf", Function::Printf, 1, usize::MAX),
    ("println", Function::Println, 0, usize::MAX),
    ("html", Function::Html, 0, usize::MAX),
    ("js", Function::Js, 0, usize::MAX),
    ("urlquery", Function::UrlQuery, 0, usize::MAX),
    ("call", Function::Call, 1, usize::MAX),
];

impl Function {
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let entry = FUNCTIONS.iter().find(|(known, ..)| *known == name);
        entry.map(|(_, function, ..)| *function)
    }

    pub(crate) fn name(self) -> &'static str {
        self.entry().map_or("", |(name, ..)| name)
    }

    /// # Errors
    /// With what is wrong when it does not take so many arguments.
    pub(crate) fn check_count(self, count: usize) -> Result<(), String> {
        let Some((name, _, least, most)) = self.entry() else { return Ok(()) };
        if (*least..=*most).contains(&count) {
            return Ok(());
        }
        let takes = match (least, most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "1 argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, &usize::MAX) => format!("{least} arguments or more"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(format!("{name} takes {takes}, got {count}"))
    }

    fn entry(self) -> Option<&'static (&'static str, Self, usize, usize)> {
        FUNCTIONS.iter().find(|(_, function, ..)| *function == self)
    }
}

/// The function whose name is nearest, for messages: the same name in another case, or the
/// documented names that start alike.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let names = || FUNCTIONS.iter().map(|(known, ..)| *known);
    names().find(|known| known.to_lowercase() == lower).or_else(|| {
        names().find(|known| {
            let known = known.to_lowercase();
            lower.len() >= 3 && (known.starts_with(&lower) || lower.starts_with(&known))
        })
    })
}
