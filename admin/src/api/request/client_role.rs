//! Roles that applications connect as.

use cellar_api::v1;
use cellar_model::{ClientName, Refusal};

use crate::api::request::field;
use crate::cluster::client_roles::{NewPassword, NewProof, NewRole};
use crate::refusal::invalid;

pub(crate) fn name(text: &str) -> Result<ClientName, Refusal> {
    field::parse("name", text)
}

pub(crate) fn new_role(message: &v1::CreateRoleRequest) -> Result<NewRole, Refusal> {
    let proof = match (message.scram_verifier.as_str(), message.certificate) {
        ("", true) => NewProof::Certificate,
        ("", false) => return Err(invalid("scram_verifier", "a verifier is needed, or a certificate")),
        (_, true) => {
            return Err(invalid("scram_verifier", "a role has a password or a certificate, not both"));
        }
        // A text that is none may be a password: the refusal does not show it.
        (text, false) => NewProof::Password(field::parse("scram_verifier", text)?),
    };
    Ok(NewRole { name: name(&message.name)?, proof, owns: field::optional("owns", &message.owns)? })
}

pub(crate) fn new_password(message: &v1::SetRolePasswordRequest) -> Result<NewPassword, Refusal> {
    Ok(NewPassword {
        name: name(&message.name)?,
        // As above.
        verifier: field::parse("scram_verifier", &message.scram_verifier)?,
        ends_sessions: message.end_sessions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_in_the_place_of_a_verifier_is_refused_and_not_shown() {
        let request = |verifier: &str, certificate: bool| {
            new_role(&v1::CreateRoleRequest {
                name: "app".into(),
                scram_verifier: verifier.into(),
                certificate,
                ..Default::default()
            })
        };
        let refusal = request("hunter2hunter2", false).unwrap_err();
        assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
        assert_eq!(refusal.about["field"], "scram_verifier");
        let refusal = new_password(&v1::SetRolePasswordRequest {
            name: "app".into(),
            scram_verifier: "hunter2hunter2".into(),
            ..Default::default()
        })
        .unwrap_err();
        assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
        assert!(request("", false).is_err() && request("x", true).is_err());
        assert_eq!(request("", true).unwrap().proof, NewProof::Certificate);
    }
}
