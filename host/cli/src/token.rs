//! `statehouse token`: a token for a caller of the REST API, and the table by which nodes know it.
//!
//! In: the caller's name and roles, or a token that exists. Out: the token, this once, and its hash as the
//! configuration has it. The table is read as a node would read it before it is printed. This file asks no node and
//! writes no file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use statehouse_node::api::Callers;
use statehouse_node::config::TokenConfig;

use crate::client::secret_of;
use crate::output::{print, print_json};

/// As many as a token needs so that nobody can guess it.
const TOKEN_BYTES: usize = 32;
const ROLES: [&str; 8] = ["client", "treasury", "compliance", "auditor", "developer", "operator", "admin", "monitor"];

/// Create a token, and print the lines by which the configuration of the nodes knows it
///
/// The token is printed only this once, and is stored nowhere: the configuration has its hash. Add a line `entities` to
/// bind the token to accounts.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The name of the caller, which is recorded with every command; never give it to somebody else later
    name: String,
    /// A role of the caller: client, treasury, compliance, auditor, developer, operator, admin or monitor; may be given
    /// several times
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = ROLES, hide_possible_values = true)]
    roles: Vec<String>,
    /// Print the lines for the token in this file, instead of creating one
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// A configuration with tokens and nothing else.
#[derive(Serialize, Deserialize)]
struct ConfigWithTokens<T> {
    auth: AuthWithTokens<T>,
}

#[derive(Serialize, Deserialize)]
struct AuthWithTokens<T> {
    tokens: Vec<T>,
}

/// A token as it is printed: the configuration has no `token`.
#[derive(Serialize)]
struct PrintedToken<'a> {
    name: &'a str,
    roles: &'a [String],
    blake3: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

pub fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let (token, is_new) = match &args.token_file {
        Some(path) => (secret_of(path).with_context(|| format!("--token-file {}", path.display()))?, false),
        None => (generate()?, true),
    };
    let blake3 = TokenConfig::hash(token.as_bytes()).to_hex();
    let (name, roles, blake3) = (args.name.as_str(), args.roles.as_slice(), blake3.as_str());
    let lines = lines(PrintedToken { name, roles, blake3, token: None })?;
    let token = Some(token.as_str()).filter(|_| is_new);
    if args.json {
        print_json(&PrintedToken { name, roles, blake3, token })?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(token) = token {
        print(&format!("the token of {name}, shown only this once and stored nowhere:\n\n{token}\n\n"))?;
    }
    print(&format!("for the configuration of every node, which reads it at its start and on SIGHUP:\n\n{lines}"))?;
    Ok(ExitCode::SUCCESS)
}

fn generate() -> anyhow::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    OsRng.try_fill_bytes(&mut bytes).context("asking the system for random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The lines of the configuration. What a node would refuse is refused here.
fn lines(printed: PrintedToken<'_>) -> anyhow::Result<String> {
    let config = ConfigWithTokens { auth: AuthWithTokens { tokens: vec![printed] } };
    let text = toml::to_string(&config).context("printing the lines")?;
    let read: ConfigWithTokens<TokenConfig> = toml::from_str(&text).context("a node cannot read the lines")?;
    Callers::new(&read.auth.tokens, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use statehouse_node::config::{EVERY_ROLE, Role};

    use super::*;

    fn lines_of(name: &str, roles: &[&str]) -> anyhow::Result<String> {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        lines(PrintedToken { name, roles: &roles, blake3: &"ab".repeat(32), token: None })
    }

    fn read(text: &str) -> TokenConfig {
        let mut read: ConfigWithTokens<TokenConfig> = toml::from_str(text).expect("it was read before");
        read.auth.tokens.remove(0)
    }

    #[test]
    fn the_lines_are_those_of_a_configuration() {
        expect![[r#"
            [[auth.tokens]]
            name = "shop-1"
            roles = ["client", "treasury"]
            blake3 = "abababababababababababababababababababababababababababababababab"
        "#]]
        .assert_eq(&lines_of("shop-1", &["client", "treasury"]).expect("good lines"));
        let name = "the \"till\" = ]";
        assert_eq!(read(&lines_of(name, &["monitor"]).expect("good lines")).name, name);
        let error = lines_of("", &["client"]).expect_err("a caller has a name");
        assert!(error.to_string().contains("no name or no role"), "{error}");
    }

    #[test]
    fn every_role_can_be_given() {
        let text = lines_of("all", &ROLES).expect("a node knows each of them");
        assert_eq!(Role::bits(&read(&text).roles), EVERY_ROLE);
    }

    #[test]
    fn no_two_tokens_are_the_same_and_each_has_256_bits() {
        let (one, other) = (generate().expect("random bytes"), generate().expect("random bytes"));
        assert_ne!(one, other);
        assert!(one.len() == 64 && one.bytes().all(|digit| digit.is_ascii_hexdigit()), "{one}");
    }
}
