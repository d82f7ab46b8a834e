//! Callers: who asks, by the bearer token of the request, and what they may do.
//!
//! In: the `Authorization` header. Out: a [`Caller`] or a problem. Tokens are compared by their blake3, in constant
//! time and always with all of them; they are replaced as a whole, between two requests. It knows nothing of what is
//! asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use parking_lot::RwLock;
use statehouse_abi::role;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::problem::{Code, Problem};
use super::roles::SCOPED_ROLES;
use crate::config::{EVERY_ROLE, MONITOR, Role, TokenConfig};
use crate::router::answer::Caller;
use crate::router::scope::Scope;

/// Everybody who may call; the tokens can be replaced while requests are answered.
pub struct Callers(RwLock<Tokens>);

/// Tokens that make sense together, each with its caller.
pub struct Tokens {
    known: Vec<Token>,
    /// No tokens are configured: everybody is the only caller here.
    is_open: bool,
}

#[derive(Clone)]
struct Token {
    /// The hash of nothing, if no tokens are configured.
    hash: blake3::Hash,
    caller: Arc<Caller>,
    /// All roles of the token. The caller has only those that modules know.
    roles: u32,
    /// Cancelled when the token is removed or changed.
    removed: CancellationToken,
}

/// What a replacement of tokens has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TokenChanges {
    pub kept: usize,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Token {
    fn new(hash: blake3::Hash, name: &str, roles: u32, scope: Scope) -> Self {
        let caller = Arc::new(Caller { name: name.to_owned(), roles: roles & !MONITOR, scope });
        Self { hash, caller, roles, removed: CancellationToken::new() }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.caller == other.caller && self.roles == other.roles
    }
}

impl Tokens {
    /// # Errors
    /// A token's hash, name or roles make no sense, or there are no tokens although others can reach the address.
    pub fn new(tokens: &[TokenConfig], listen: SocketAddr) -> Result<Self, ApiError> {
        if tokens.is_empty() {
            if !listen.ip().is_loopback() {
                return Err(ApiError::OpenWithoutTokens(listen));
            }
            tracing::warn!(
                %listen,
                "no tokens are configured: everybody on this machine is `anonymous` and may do everything"
            );
            let anonymous = Token::new(blake3::hash(b""), "anonymous", EVERY_ROLE, Scope::All);
            return Ok(Self { known: vec![anonymous], is_open: true });
        }
        let mut known: Vec<Token> = Vec::new();
        for config in tokens {
            let TokenConfig { name, roles, blake3: found, .. } = config;
            let hash = blake3::Hash::from_hex(found);
            let hash = hash.map_err(|_| ApiError::TokenHash { name: name.clone(), found: found.clone() })?;
            let token = Token::new(hash, name, Role::bits(roles), scope_of(config)?);
            if name.is_empty() || token.roles == 0 {
                return Err(ApiError::TokenEmpty(name.clone()));
            }
            if known.iter().any(|before| before.hash == hash || before.caller.name == *name) {
                return Err(ApiError::TokenTwice(name.clone()));
            }
            known.push(token);
        }
        Ok(Self { known, is_open: false })
    }

    /// Keeps the tokens that are the same in `before`, and cancels those that are gone.
    fn follow(&mut self, before: &Self) -> TokenChanges {
        let mut changes = TokenChanges::default();
        let name = |token: &Token| token.caller.name.clone();
        for token in &mut self.known {
            match before.known.iter().find(|old| old.is_same(token)) {
                Some(old) => *token = old.clone(),
                None => changes.added.push(name(token)),
            }
        }
        for old in &before.known {
            if !self.known.iter().any(|token| token.is_same(old)) {
                old.removed.cancel();
                changes.removed.push(name(old));
            }
        }
        changes.kept = self.known.len() - changes.added.len();
        changes
    }
}

impl Callers {
    /// # Errors
    /// See [`Tokens::new`].
    pub fn new(tokens: &[TokenConfig], listen: SocketAddr) -> Result<Self, ApiError> {
        Ok(Self(RwLock::new(Tokens::new(tokens, listen)?)))
    }

    /// Replaces the tokens. Answers that still run for a token that is gone are told so, see [`Callers::removal`].
    pub fn replace(&self, mut tokens: Tokens) -> TokenChanges {
        let mut current = self.0.write();
        let changes = tokens.follow(&current);
        *current = tokens;
        changes
    }

    /// Whether everybody who can reach the address is let in.
    pub fn is_open(&self) -> bool {
        self.0.read().is_open
    }

    /// Who sent this request, provided that they have one of the roles.
    ///
    /// # Errors
    /// 401 without a known token, 403 without one of the roles.
    pub fn admit(&self, headers: &HeaderMap, roles: u32) -> Result<Arc<Caller>, Problem> {
        let tokens = self.0.read();
        let token = if tokens.is_open { &tokens.known[0] } else { find(&tokens.known, headers)? };
        if token.roles & roles == 0 {
            let (name, roles) = (&token.caller.name, role_names(roles));
            return Err(Problem::new(Code::Forbidden, format!("`{name}` has none of the roles {roles}; ask an admin")));
        }
        Ok(token.caller.clone())
    }

    /// It is cancelled when the token by which this caller was admitted is gone, which may be so already.
    pub fn removal(&self, caller: &Arc<Caller>) -> CancellationToken {
        let tokens = self.0.read();
        let token = tokens.known.iter().find(|token| Arc::ptr_eq(&token.caller, caller));
        let removed = token.map(|token| token.removed.clone());
        removed.unwrap_or_else(|| {
            let removed = CancellationToken::new();
            removed.cancel();
            removed
        })
    }
}

fn scope_of(token: &TokenConfig) -> Result<Scope, ApiError> {
    let Some(patterns) = &token.entities else { return Ok(Scope::All) };
    let name = token.name.clone();
    let beyond = Role::bits(&token.roles) & !SCOPED_ROLES;
    if beyond != 0 {
        return Err(ApiError::TokenBeyondScope { name, roles: role_names(beyond) });
    }
    Scope::bound(patterns).map_err(|source| ApiError::TokenScope { name, source })
}

fn find<'k>(known: &'k [Token], headers: &HeaderMap) -> Result<&'k Token, Problem> {
    let refused = |detail: &str| Problem::new(Code::Unauthenticated, detail);
    let header = headers.get(AUTHORIZATION).ok_or_else(|| refused("send `Authorization: Bearer <token>`"))?;
    let header = header.as_bytes();
    let (scheme, token) = header.split_at_checked("Bearer ".len()).unwrap_or((header, b""));
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(refused("the Authorization header is not `Bearer <token>`"));
    }
    let hash = TokenConfig::hash(token);
    let mut found = None;
    for token in known {
        // Comparing blake3 hashes takes the same time whatever they are.
        if token.hash == hash {
            found = Some(token);
        }
    }
    found.ok_or_else(|| refused("this token is not known here"))
}

/// The roles in words, for people.
pub fn role_names(roles: u32) -> String {
    let all = [
        (role::CLIENT, "client"),
        (role::TREASURY, "treasury"),
        (role::AUDITOR, "auditor"),
        (role::DEVELOPER, "developer"),
        (role::OPERATOR, "operator"),
        (role::ADMIN, "admin"),
        (MONITOR, "monitor"),
        (role::COMPLIANCE, "compliance"),
    ];
    let named: Vec<_> = all.iter().filter(|(bit, _)| roles & bit != 0).map(|(_, name)| *name).collect();
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, token: &str, roles: &[Role]) -> TokenConfig {
        let blake3 = TokenConfig::hash(token.as_bytes()).to_hex().to_string();
        TokenConfig { name: name.to_owned(), roles: roles.to_vec(), entities: None, blake3 }
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8080))
    }

    /// The name of the admitted caller, or the status and detail of the refusal.
    fn outcome(callers: &Callers, authorization: Option<&str>, roles: u32) -> Result<String, (u16, String)> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().expect("a header value"));
        }
        let admitted = callers.admit(&headers, roles);
        admitted.map(|caller| caller.name.clone()).map_err(|problem| (problem.status(), problem.detail().to_owned()))
    }

    #[test]
    fn tokens_name_their_caller() {
        let tokens =
            [token("till", "s3cret", &[Role::Client]), token("chief", "0ther", &[Role::Admin, Role::Treasury])];
        let callers = Callers::new(&tokens, local()).expect("good tokens");
        assert_eq!(outcome(&callers, Some("Bearer s3cret"), role::CLIENT), Ok("till".into()));
        assert_eq!(outcome(&callers, Some("bearer 0ther"), role::CLIENT | role::ADMIN), Ok("chief".into()));
        let refused = |detail: &str| Err((401, detail.to_owned()));
        assert_eq!(outcome(&callers, None, role::ALL), refused("send `Authorization: Bearer <token>`"));
        assert_eq!(outcome(&callers, Some("Bearer s3cret "), role::ALL), refused("this token is not known here"));
        assert_eq!(outcome(&callers, Some("Bearer "), role::ALL), refused("this token is not known here"));
        assert_eq!(
            outcome(&callers, Some("Basic s3cret"), role::ALL),
            refused("the Authorization header is not `Bearer <token>`")
        );
        let detail = "`till` has none of the roles operator, admin; ask an admin".to_owned();
        assert_eq!(outcome(&callers, Some("Bearer s3cret"), role::ADMIN | role::OPERATOR), Err((403, detail)));
    }

    #[test]
    fn tokens_are_replaced_as_a_whole_and_the_rest_is_ended() {
        let (till, chief) = (token("till", "s3cret", &[Role::Client]), token("chief", "0ther", &[Role::Admin]));
        let callers = Callers::new(&[till.clone(), chief.clone()], local()).expect("good tokens");
        let caller = |token: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().expect("a value"))]);
            callers.admit(&headers, EVERY_ROLE)
        };
        let (of_till, of_chief) = (caller("s3cret").expect("known"), caller("0ther").expect("known"));
        let (till_goes, chief_goes) = (callers.removal(&of_till), callers.removal(&of_chief));
        let replace = |tokens: &[TokenConfig]| callers.replace(Tokens::new(tokens, local()).expect("good tokens"));

        let watch = token("watch", "third", &[Role::Monitor]);
        let changes = replace(&[watch, till.clone()]);
        let expected = TokenChanges { kept: 1, added: vec!["watch".into()], removed: vec!["chief".into()] };
        assert_eq!((changes, till_goes.is_cancelled(), chief_goes.is_cancelled()), (expected, false, true));
        assert_eq!(caller("0ther").map_err(|problem| problem.status()), Err(401));
        assert!(Arc::ptr_eq(&caller("s3cret").expect("still known"), &of_till), "what is the same goes on");
        assert!(callers.removal(&of_chief).is_cancelled(), "who asks late hears it too");

        let changes = replace(&[TokenConfig { roles: vec![Role::Auditor], ..till }]);
        assert_eq!(changes.removed, ["watch", "till"]);
        assert!(till_goes.is_cancelled(), "another role is another token");
        assert_eq!(caller("s3cret").expect("known again").roles, role::AUDITOR);
    }

    #[test]
    fn who_only_watches_has_no_role_that_a_module_knows() {
        let tokens = [token("watch", "w", &[Role::Monitor]), token("both", "b", &[Role::Monitor, Role::Client])];
        let callers = Callers::new(&tokens, local()).expect("good tokens");
        assert_eq!(outcome(&callers, Some("Bearer w"), MONITOR | role::ADMIN), Ok("watch".into()));
        assert_eq!(outcome(&callers, Some("Bearer w"), role::ALL).map_err(|refused| refused.0), Err(403));
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer b".parse().expect("a value"))]);
        assert_eq!(callers.admit(&headers, MONITOR).expect("a role").roles, role::CLIENT);
    }

    #[test]
    fn without_tokens_only_this_machine_may_call() {
        let callers = Callers::new(&[], local()).expect("loopback");
        assert_eq!(outcome(&callers, None, role::ADMIN), Ok("anonymous".into()));
        assert_eq!(outcome(&callers, Some("Bearer x"), MONITOR), Ok("anonymous".into()));
        let error = Callers::new(&[], SocketAddr::from(([0, 0, 0, 0], 80))).err().expect("open to everybody");
        assert!(error.to_string().starts_with("0.0.0.0:80 can be reached from other machines"), "{error}");
    }

    #[test]
    fn tokens_that_make_no_sense_are_refused() {
        let check = |tokens: &[TokenConfig], expected: &str| {
            let error = Callers::new(tokens, local()).err().expect(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        let good = token("a", "a", &[Role::Client]);
        check(&[TokenConfig { blake3: "s3cret".into(), ..good.clone() }], "`s3cret` is not the blake3 of a token");
        check(&[TokenConfig { roles: vec![], ..good.clone() }], "no name or no role");
        check(&[TokenConfig { name: String::new(), ..good.clone() }], "no name or no role");
        let bound = |entities: &[&str]| Some(entities.iter().map(|text| (*text).to_owned()).collect());
        check(&[TokenConfig { entities: bound(&[]), ..good.clone() }], "token `a`: `entities` is empty");
        check(&[TokenConfig { entities: bound(&["b*c"]), ..good.clone() }], "token `a`: `b*c` is no entity");
        let steers = token("a", "a", &[Role::Client, Role::Operator, Role::Compliance]);
        check(&[TokenConfig { entities: bound(&["b"]), ..steers }], "its roles operator see and control");
        check(&[good.clone(), token("a", "b", &[Role::Client])], "occurs twice");
        check(&[good, token("b", "a", &[Role::Client])], "occurs twice");
    }
}
