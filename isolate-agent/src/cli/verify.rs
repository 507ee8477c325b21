//! `verify`: proves by probes that pods are cut off.

use isolate_agent::{
    control::protocol::{Code, Finding, Outcomes, Verification, VerifyRequest},
    settings::Settings,
};

use super::{
    CliError,
    backend::Backend,
    output::{self, Cell, Style, Tint},
};
use crate::args::{Form, Verify};

pub(crate) async fn run(args: &Verify, settings: Settings) -> Result<Code, CliError> {
    let request = VerifyRequest { uids: args.uids.clone() };
    request.check()?;
    let verifications = Backend::open(settings).await?.verify(request).await?;
    if args.output == Form::Text {
        let style = Style::of_stdout();
        let (tried, untried): (Vec<_>, Vec<_>) =
            verifications.results.iter().partition(|verification| !verification.proofs.is_empty());
        for verification in untried {
            output::warn(&verification.message);
        }
        output::print(&tried.into_iter().map(|verification| text(verification, style)).collect::<String>())?;
    } else {
        output::print(&output::document(&verifications, args.output)?)?;
    }
    Ok(verifications.worst())
}

/// Verifies what was isolated just now.
pub(crate) async fn after(outcomes: &mut Outcomes, settings: Settings) -> Result<(), CliError> {
    let isolated = |code| matches!(code, Code::Done | Code::PartlyCovered);
    let added = outcomes.results.iter().filter(|outcome| isolated(outcome.code));
    let uids: Vec<String> = added.filter_map(|outcome| outcome.uid.clone()).collect();
    if !uids.is_empty() {
        outcomes.verifications = Backend::open(settings).await?.verify(VerifyRequest { uids }).await?.results;
    }
    Ok(())
}

/// What was found of one pod: the sum, every hook, what stays open beside that.
pub(crate) fn text(verification: &Verification, style: Style) -> String {
    let mut text = output::printable(&verification.message) + "\n";
    if !verification.proofs.is_empty() {
        let rows = verification.proofs.iter().map(|proof| {
            let finding = match proof.finding {
                Finding::ProvedCut => Cell::tinted("proved cut", Tint::Good),
                Finding::Allowed => Cell::tinted("allowed", Tint::Bad),
                Finding::NotCovered => Cell::tinted("not covered", Tint::Bad),
                Finding::Leak => Cell::tinted("LEAK", Tint::Bad),
            };
            let cells = [&proof.hook, &proof.direction, &proof.place].map(|field| Cell::from(field.as_str()));
            cells.into_iter().chain([finding, Cell::from(proof.evidence.as_str())]).collect()
        });
        text += &output::table(&["HOOK", "DIRECTION", "PLACE", "FINDING", "EVIDENCE"], rows.collect(), style);
    }
    let open = verification.open.iter().map(|open| format!("  still open: {}", output::printable(open)));
    text + &output::lines(open)
}
