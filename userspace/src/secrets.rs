//! Masking of what looks like a secret in the arguments of processes.
//!
//! A guess by names (`--password=…`, `GITHUB_TOKEN=…`), by place (`https://user:…@host`) and by form (`ghp_…`). It errs on
//! the side of masking, and it is no promise: an argument that is a secret and looks like nothing stays.

use crate::event::Process;

/// What stands for a secret.
pub const MASK: &str = "***";

/// A name with one of these anywhere in it names a secret.
const WITHIN: [&str; 8] =
    ["password", "passwd", "passphrase", "passwort", "credential", "apikey", "accesskey", "authorization"];
/// A word of a name that ends so makes it name a secret: `token`, `authtoken`, `clientsecret`.
const WORD_ENDS: [&str; 6] = ["token", "tokens", "secret", "secrets", "bearer", "cookie"];
/// A word of a name that is one of these makes it name a secret.
const WORDS: [&str; 6] = ["pass", "pwd", "auth", "pw", "pat", "otp"];
/// Two words of a name, one after the other, that make it name a secret: `api-key`.
const BEFORE_KEY: [&str; 8] =
    ["api", "access", "secret", "private", "auth", "account", "signing", "encryption"];
/// A name with one of these words names something about a secret, or where it is, and not the secret.
const HARMLESS: [&str; 25] = [
    "file", "path", "dir", "fd", "env", "name", "url", "uri", "type", "ttl", "expiry", "timeout", "max",
    "min", "limit", "length", "count", "size", "no", "num", "method", "mode", "jar", "store", "from",
];
/// Beginnings of secrets that their issuers gave a form of their own.
const PREFIXES: [&str; 16] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "AKIA",
    "ASIA",
    "sk-",
    "npm_",
    "eyJ",
    "pypi-",
];
/// Shortest secret with such a beginning, bytes.
const PREFIXED_MIN: usize = 20;
/// Shortest user information of a URL without a colon that is taken for a token, bytes.
const USERINFO_MIN: usize = 16;

/// Masks the arguments of a process where they look like secrets. To be done before anything else sees the event, so
/// that the log, the findings and every output agree.
pub fn mask_process(process: &mut Process) {
    mask_arguments(&mut process.cmdline);
}

/// Masks arguments in place. Masking what is masked changes nothing.
pub fn mask_arguments(arguments: &mut [String]) {
    let mut next_is_secret = false;
    let mut next_is_script = false;
    for argument in arguments {
        let script = next_is_script;
        next_is_script = is_script_flag(argument);
        if next_is_secret && !argument.starts_with('-') && !is_reference(argument) {
            MASK.clone_into(argument);
            next_is_secret = false;
            continue;
        }
        next_is_secret = argument.starts_with('-') && argument.chars().all(is_word) && names_secret(argument);
        let whole = if script { None } else { assigned(argument) };
        if let Some(masked) = whole.or_else(|| masked(argument)) {
            *argument = masked;
        }
    }
}

/// `-c`, `-ec`: a script follows.
fn is_script_flag(argument: &str) -> bool {
    let letters = argument.strip_prefix('-').and_then(|flags| flags.strip_suffix('c'));
    letters.is_some_and(|letters| letters.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// `argument` masked, when all of it is NAME=VALUE: the value then goes on to its end, blanks or not. In a script
/// (`sh -c …`) it does not.
fn assigned(argument: &str) -> Option<String> {
    let (name, value) = argument.split_once('=')?;
    let secret = name.chars().all(is_word) && names_secret(name) && !value.is_empty() && !is_reference(value);
    (secret && value != MASK).then(|| format!("{name}={MASK}"))
}

/// `text` with its secrets masked; None when there are none.
fn masked(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while !rest.is_empty() {
        let (taken, secret) = next_piece(rest);
        let (piece, tail) = rest.split_at(taken);
        if let Some(range) = secret
            && let (Some(before), Some(value), Some(after)) =
                (piece.get(..range.start), piece.get(range.clone()), piece.get(range.end..))
            && value != MASK
            && !is_reference(value)
        {
            changed = true;
            out.push_str(before);
            out.push_str(MASK);
            out.push_str(after);
        } else {
            out.push_str(piece);
        }
        rest = tail;
    }
    changed.then_some(out)
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The next piece of `text`, bytes, and where in it a secret is.
fn next_piece(text: &str) -> (usize, Option<std::ops::Range<usize>>) {
    let word = text.find(|c| !is_word(c)).unwrap_or(text.len());
    if word == 0 {
        return (text.chars().next().map_or(1, char::len_utf8), None);
    }
    let (name, after) = text.split_at(word);
    if let Some(authority) = after.strip_prefix("://") {
        let (secret, seen) = user_info(authority);
        let shift = word + "://".len();
        return (shift + seen, secret.map(|range| shift + range.start..shift + range.end));
    }
    if name.len() >= PREFIXED_MIN && PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return (word, Some(0..word));
    }
    if !names_secret(name) {
        return (word, None);
    }
    match value(after, name.starts_with('-')) {
        Some(range) => (word + range.end, Some(word + range.start..word + range.end)),
        None => (word, None),
    }
}

/// Where the value is in what follows a name: `=x`, `: x`, `":"x"`, and ` x` after an option.
fn value(after: &str, option: bool) -> Option<std::ops::Range<usize>> {
    let unquoted = after.trim_start_matches(['"', '\'']);
    let separator = unquoted.chars().next()?;
    let tail = match separator {
        '=' => unquoted.get(1..)?,
        ':' => unquoted.get(1..)?.trim_start_matches(' '),
        ' ' if option && !unquoted.trim_start().starts_with('-') => unquoted.trim_start_matches(' '),
        _ => return None,
    };
    let quote = tail.chars().next().filter(|c| matches!(c, '"' | '\''));
    let body = if quote.is_some() { tail.get(1..)? } else { tail };
    let length = match (quote, separator) {
        (Some(quote), _) => body.find(quote),
        // A header goes on to the end of its line: `Authorization: Bearer x`.
        (None, ':') if after.starts_with(": ") => body.find(['"', '\'', '\n', '\r']),
        (None, _) => body.find([' ', '\t', '\n', ';', '&', ',', '|', '"', '\'', ')', '}']),
    };
    let length = length.unwrap_or(body.len());
    let start = after.len() - body.len();
    (length > 0).then_some(start..start + length)
}

/// Where the secret is in the user information of a URL's authority, and how much of the text was looked at.
fn user_info(authority: &str) -> (Option<std::ops::Range<usize>>, usize) {
    let end = authority.find(['/', '?', '#', ' ', '"', '\'', '\n']).unwrap_or(authority.len());
    let Some(at) = authority.get(..end).and_then(|authority| authority.rfind('@')) else { return (None, 0) };
    let info = authority.get(..at).unwrap_or_default();
    match info.find(':') {
        Some(colon) if colon + 1 < at => (Some(colon + 1..at), at),
        None if at >= USERINFO_MIN => (Some(0..at), at),
        _ => (None, at),
    }
}

/// A value that names where the secret is: `$TOKEN`, `${TOKEN}`, `$(cat x)`.
fn is_reference(value: &str) -> bool {
    value.starts_with('$')
}

fn names_secret(name: &str) -> bool {
    let mut spaced = String::with_capacity(name.len() + 4);
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            spaced.push('-');
        }
        after_lower = c.is_ascii_lowercase();
        spaced.push(if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() });
    }
    let words: Vec<&str> = spaced.split('-').filter(|word| !word.is_empty()).collect();
    if words.iter().any(|word| HARMLESS.contains(word)) {
        return false;
    }
    // PWD alone is the working directory.
    if words == ["pwd"] {
        return false;
    }
    let joined: String = words.concat();
    let keyed = |pair: &[&str]| matches!(pair, [first, "key" | "keys"] if BEFORE_KEY.contains(first));
    WITHIN.iter().any(|within| joined.contains(within))
        || words.iter().any(|word| WORDS.contains(word) || WORD_ENDS.iter().any(|end| word.ends_with(end)))
        || words.windows(2).any(keyed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask(arguments: &[&str]) -> Vec<String> {
        let mut arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        mask_arguments(&mut arguments);
        arguments
    }

    #[test]
    fn secrets_are_masked() {
        let cases: [(&[&str], &[&str]); 26] = [
            (&["x", "--password=hunter2"], &["x", "--password=***"]),
            (&["x", "--password", "hunter2", "y"], &["x", "--password", "***", "y"]),
            (&["--token", "abc", "--port", "80"], &["--token", "***", "--port", "80"]),
            (&["--db-pass", "x"], &["--db-pass", "***"]),
            (&["AWS_SECRET_ACCESS_KEY=abc/def+g"], &["AWS_SECRET_ACCESS_KEY=***"]),
            (&["env", "DB_PASSWORD=x y", "cmd"], &["env", "DB_PASSWORD=***", "cmd"]),
            (&["GITHUB_TOKEN=x"], &["GITHUB_TOKEN=***"]),
            (&["-e", "API_KEY=x"], &["-e", "API_KEY=***"]),
            (&["-Ddb.password=x"], &["-Ddb.password=***"]),
            (&["--clientSecret=x"], &["--clientSecret=***"]),
            (&["https://me:pw@host:80/x"], &["https://me:***@host:80/x"]),
            (&["postgres://me:p@ss@host/x"], &["postgres://me:***@host/x"]),
            (&["https://0123456789abcdef0123@host/x"], &["https://***@host/x"]),
            (&["http://h/?a=1&access_token=t&b=2"], &["http://h/?a=1&access_token=***&b=2"]),
            (&["-H", "Authorization: Bearer abc def"], &["-H", "Authorization: ***"]),
            (&["-H", "X-Api-Key: abc"], &["-H", "X-Api-Key: ***"]),
            (&["-H", "Cookie: a=b; c=d"], &["-H", "Cookie: ***"]),
            (&["{\"password\":\"a b\",\"x\":1}"], &["{\"password\":\"***\",\"x\":1}"]),
            (&["{\"token\": \"ab\"}"], &["{\"token\": \"***\"}"]),
            (&["Server=h;Password=x;Port=1"], &["Server=h;Password=***;Port=1"]),
            (
                &["sh", "-c", "TOKEN=x ./run --secret y --port 1"],
                &["sh", "-c", "TOKEN=*** ./run --secret *** --port 1"],
            ),
            (&["bash", "-xc", "MYSQL_PWD='a b' mysql"], &["bash", "-xc", "MYSQL_PWD='***' mysql"]),
            (&["ghp_0123456789abcdefghij"], &["***"]),
            (&["x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc"], &["x=***"]),
            (&["--auth", "me:pw"], &["--auth", "***"]),
            (&["--passphrase=é\u{1b}x"], &["--passphrase=***"]),
        ];
        for (given, expected) in cases {
            assert_eq!(mask(given), expected, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let cases: [&[&str]; 16] = [
            &["node", "server.js", "--port=8080"],
            &["--password-file", "/run/secret"],
            &["--token-file=/x", "--max-tokens=5", "--token-limit", "3"],
            &["--tokenizer=bert", "--author", "me", "--passive", "--secretary=x"],
            &["PWD=/home/me", "PATH=/bin"],
            &["ssh://git@github.com/x", "me@host", "https://host/x@y"],
            &["--password=$PASSWORD", "--token", "${T}"],
            &["--no-password", "x"],
            &["--key", "/etc/key.pem", "--keep=x"],
            &["password"],
            &["cat", "token", "x"],
            &["--password", "--force"],
            &["sk-short", "eyJ", "AKIA"],
            &["--password="],
            &["-password:***", "x"],
            &["a: b", "time 10:20", "::1", "[::1]:80", "http://[::1]:80/"],
        ];
        for arguments in cases {
            assert_eq!(mask(arguments), arguments);
        }
    }

    proptest! {
        #[test]
        fn masking_twice_is_masking_once(arguments in proptest::collection::vec("(-{0,2}(password|token|x|user)[=: ]?)?\\PC{0,12}", 0..6)) {
            let mut once = arguments;
            mask_arguments(&mut once);
            let mut twice = once.clone();
            mask_arguments(&mut twice);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn a_named_secret_never_stays(secret in "[a-zA-Z0-9+/ ;&'\"]{6,40}", name in "(--password|--api-key|DB_TOKEN|client_secret)", separator in "=") {
            let argument = format!("{name}{separator}{secret}");
            prop_assert_eq!(mask(&[&argument]).concat(), format!("{name}=***"));
        }
    }
}
