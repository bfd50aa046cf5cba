//! Where things are in the picture, in pixels from the top left corner.

use std::collections::HashMap;

use super::{Picture, Replication, Server};

pub(super) const MARGIN: u32 = 36;
pub(super) const CARD_WIDTH: u32 = 216;
pub(super) const CARD_HEIGHT: u32 = 132;
pub(super) const BAR_HEIGHT: u32 = 30;
/// Between a card and the vertical wire that passes it.
pub(super) const GUTTER: u32 = 20;
/// The length of an arrow's last, level part: what its label needs.
pub(super) const LEVEL: u32 = 170;
/// Between the outermost wire and the end of the bars.
const EDGE: u32 = 16;
const TITLE_HEIGHT: u32 = 72;
/// Between a bar and the cards.
const STUB: u32 = 46;
const ROW_GAP: u32 = 44;
const COLUMN_GAP: u32 = 70;
/// Between columns with arrows from one to the other.
const ARROW_GAP: u32 = LEVEL + 50;
/// Wide enough for title and legend even when there is one host.
const MIN_WIDTH: u32 = 720;

/// Where a host's card is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Card {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) column: usize,
    /// Whether nothing is between the card and the bar above it, or below it.
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Card {
    pub(super) fn right(self) -> u32 {
        self.x + CARD_WIDTH
    }

    pub(super) fn bottom(self) -> u32 {
        self.y + CARD_HEIGHT
    }

    pub(super) fn middle(self) -> u32 {
        self.y + CARD_HEIGHT / 2
    }
}

#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// One for each host, in the same order.
    pub(super) cards: Vec<Card>,
    /// The arrows between hosts that exist, with the numbers of sender and receiver.
    pub(super) arrows: Vec<(&'a Replication, usize, usize)>,
    /// The top edges of the two bars, and where the rest begins.
    pub(super) data: u32,
    pub(super) mgmt: u32,
    pub(super) below: u32,
    pub(super) width: u32,
}

pub(super) fn layout(picture: &Picture) -> Layout<'_> {
    let number: HashMap<&str, usize> =
        picture.hosts.iter().enumerate().map(|(at, host)| (host.name.as_str(), at)).collect();
    let arrows: Vec<_> = picture
        .replication
        .iter()
        .filter_map(|link| Some((link, *number.get(link.from.as_str())?, *number.get(link.to.as_str())?)))
        .filter(|(_, from, to)| from != to)
        .collect();
    let columns = columns(picture, &arrows);
    let mut column_of = vec![0; picture.hosts.len()];
    for (column, hosts) in columns.iter().enumerate() {
        for &host in hosts {
            column_of[host] = column;
        }
    }

    let data = TITLE_HEIGHT;
    let top = data + BAR_HEIGHT + STUB;
    let height = columns.iter().map(|hosts| stack(hosts.len())).max().unwrap_or(0);
    let mut cards: Vec<Option<Card>> = vec![None; picture.hosts.len()];
    let mut x = MARGIN + GUTTER + EDGE;
    for (column, hosts) in columns.iter().enumerate() {
        let offset = (height - stack(hosts.len())) / 2;
        for (row, &host) in (0..).zip(hosts) {
            let y = top + offset + row * (CARD_HEIGHT + ROW_GAP);
            let (first, last) = (Some(&host) == hosts.first(), Some(&host) == hosts.last());
            cards[host] = Some(Card { x, y, column, first, last });
        }
        let arrow = arrows.iter().any(|(_, from, to)| {
            column_of[*from].min(column_of[*to]) <= column && column_of[*from].max(column_of[*to]) > column
        });
        x += CARD_WIDTH + if arrow { ARROW_GAP } else { COLUMN_GAP };
    }
    let right = cards.iter().flatten().map(|card| card.right()).max().unwrap_or(0);
    // Arrows that go back bend round the right-hand side, with their labels.
    let back = arrows.iter().any(|(_, from, to)| column_of[*to] <= column_of[*from]);
    let right = right + if back { LEVEL } else { 0 };
    let mgmt = top + height + STUB;
    let width = (right + EDGE + GUTTER + MARGIN).max(MIN_WIDTH);
    let cards = cards.into_iter().flatten().collect();
    Layout { cards, arrows, data, mgmt, below: mgmt + BAR_HEIGHT, width }
}

/// The height of so many cards, one below the other.
fn stack(cards: usize) -> u32 {
    let cards = u32::try_from(cards).unwrap_or(u32::MAX);
    cards.saturating_mul(CARD_HEIGHT + ROW_GAP).saturating_sub(ROW_GAP)
}

/// The hosts of each column: servers by how many servers their data comes through, then the voters, then the rest.
/// Every host is in exactly one column, and no column is empty.
fn columns(picture: &Picture, arrows: &[(&Replication, usize, usize)]) -> Vec<Vec<usize>> {
    let count = picture.hosts.len();
    let mut followers = vec![Vec::new(); count];
    let mut follows = vec![false; count];
    for &(_, from, to) in arrows {
        followers[from].push(to);
        follows[to] = true;
    }
    let is_server = |host: &usize| picture.hosts[*host].server.is_some() || follows[*host];
    let mut servers: Vec<usize> = (0..count).filter(is_server).collect();
    // The ends of chains first; a chain that bites its tail is cut at a primary, or anywhere.
    servers.sort_by_key(|&host| (follows[host], picture.hosts[host].server != Some(Server::Primary)));

    let mut placed = vec![false; count];
    let mut columns: Vec<Vec<usize>> = Vec::new();
    for root in servers {
        if placed[root] {
            continue;
        }
        placed[root] = true;
        let mut level = vec![root];
        for depth in 0.. {
            if level.is_empty() {
                break;
            }
            if columns.len() == depth {
                columns.push(Vec::new());
            }
            columns[depth].extend(&level);
            let mut next = Vec::new();
            for follower in level.iter().flat_map(|&host| &followers[host]) {
                if !placed[*follower] {
                    placed[*follower] = true;
                    next.push(*follower);
                }
            }
            level = next;
        }
    }
    for column in &mut columns {
        column.sort_unstable();
    }
    let votes =
        |host: usize| picture.hosts[host].roles.iter().any(|role| role == "arbiter" || role == "etcd");
    let (voters, others): (Vec<_>, Vec<_>) =
        (0..count).filter(|&host| !placed[host]).partition(|&host| votes(host));
    columns.extend([voters, others].into_iter().filter(|column| !column.is_empty()));
    columns
}
