//! Callers: who asks, by the bearer token of the request, and what they may do.
//!
//! In: the `Authorization` header. Out: a [`Caller`] or a problem. Tokens are compared by their blake3, in constant time
//! and always with all of them. It knows nothing of what is asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use statehouse_abi::role;

use super::error::ApiError;
use super::problem::{Code, Problem};
use crate::config::{Role, TokenConfig};
use crate::router::answer::Caller;

/// Everybody who may call.
pub enum Callers {
    /// There are no tokens: everybody is this one, with all roles.
    Anonymous(Arc<Caller>),
    Tokens(Vec<(blake3::Hash, Arc<Caller>)>),
}

impl Callers {
    /// # Errors
    /// A token's hash, name or roles make no sense, or there are no tokens although others can reach the address.
    pub fn new(tokens: &[TokenConfig], listen: SocketAddr) -> Result<Self, ApiError> {
        if tokens.is_empty() {
            if !listen.ip().is_loopback() {
                return Err(ApiError::OpenWithoutTokens(listen));
            }
            tracing::warn!(%listen, "no tokens are configured: everybody on this machine is `anonymous` and may do everything");
            return Ok(Self::anonymous());
        }
        let mut known: Vec<(blake3::Hash, Arc<Caller>)> = Vec::new();
        for token in tokens {
            let name = token.name.clone();
            let found = token.blake3.clone();
            let hash = blake3::Hash::from_hex(&found).map_err(|_| ApiError::TokenHash { name, found })?;
            let caller = Caller { name: token.name.clone(), roles: Role::bits(&token.roles) };
            if caller.name.is_empty() || caller.roles == 0 {
                return Err(ApiError::TokenEmpty(caller.name));
            }
            if known.iter().any(|(other, before)| *other == hash || before.name == caller.name) {
                return Err(ApiError::TokenTwice(caller.name));
            }
            known.push((hash, Arc::new(caller)));
        }
        Ok(Self::Tokens(known))
    }

    /// Everybody may do everything.
    pub fn anonymous() -> Self {
        Self::Anonymous(Arc::new(Caller { name: "anonymous".to_owned(), roles: role::ALL }))
    }

    /// Whether everybody is let in whom the address lets in.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Anonymous(_))
    }

    /// Who sent this request, provided that they have one of the roles.
    ///
    /// # Errors
    /// 401 without a known token, 403 without one of the roles.
    pub fn admit(&self, headers: &HeaderMap, roles: u32) -> Result<Arc<Caller>, Problem> {
        let caller = match self {
            Self::Anonymous(caller) => caller,
            Self::Tokens(known) => find(known, headers)?,
        };
        if caller.roles & roles == 0 {
            let detail = format!("`{}` has none of the roles {}; ask an admin", caller.name, role_names(roles));
            return Err(Problem::new(Code::Forbidden, detail));
        }
        Ok(caller.clone())
    }
}

fn find<'k>(known: &'k [(blake3::Hash, Arc<Caller>)], headers: &HeaderMap) -> Result<&'k Arc<Caller>, Problem> {
    let refused = |detail: &str| Problem::new(Code::Unauthenticated, detail);
    let header = headers.get(AUTHORIZATION).ok_or_else(|| refused("send `Authorization: Bearer <token>`"))?;
    let header = header.as_bytes();
    let (scheme, token) = header.split_at_checked("Bearer ".len()).unwrap_or((header, b""));
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(refused("the Authorization header is not `Bearer <token>`"));
    }
    let hash = blake3::hash(token);
    let mut found = None;
    for (other, caller) in known {
        // Comparing blake3 hashes takes the same time whatever they are.
        if *other == hash {
            found = Some(caller);
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
    ];
    let named: Vec<_> = all.iter().filter(|(bit, _)| roles & bit != 0).map(|(_, name)| *name).collect();
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, token: &str, roles: &[Role]) -> TokenConfig {
        let blake3 = blake3::hash(token.as_bytes()).to_hex().to_string();
        TokenConfig { name: name.to_owned(), roles: roles.to_vec(), blake3 }
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8080))
    }

    /// The name of whoever is admitted, or the status and detail of the refusal.
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
    fn without_tokens_only_this_machine_may_call() {
        let callers = Callers::new(&[], local()).expect("loopback");
        assert_eq!(outcome(&callers, None, role::ADMIN), Ok("anonymous".into()));
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
        check(&[good.clone(), token("a", "b", &[Role::Client])], "occurs twice");
        check(&[good, token("b", "a", &[Role::Client])], "occurs twice");
    }
}
