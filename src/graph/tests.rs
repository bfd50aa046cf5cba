use super::*;

/// The lab that ships, healthy.
fn lab() -> Picture {
    let host = |name: &str, role: &str, server, number: u8| Host {
        name: name.to_owned(),
        roles: vec![role.to_owned()],
        server,
        health: Health::Good,
        state: "running".to_owned(),
        detail: if server.is_some() { "PostgreSQL 17.6".to_owned() } else { String::new() },
        data: format!("10.77.10.{number}"),
        mgmt: format!("10.77.11.{number}"),
        cut: false,
    };
    Picture {
        lab: "lab".to_owned(),
        hosts: vec![
            host("m", "postgres", Some(Server::Primary), 11),
            host("s", "postgres", Some(Server::Standby), 12),
            host("arbiter", "arbiter", None, 13),
            host("client", "client", None, 14),
        ],
        replication: vec![Replication {
            from: "m".to_owned(),
            to: "s".to_owned(),
            mode: Mode::Synchronous,
            slot: "s".to_owned(),
            lag: "0 B, 0.0 s".to_owned(),
            streaming: true,
        }],
        data: Network { name: "pgprov-lab-data".to_owned(), subnet: "10.77.10.0/24".to_owned() },
        mgmt: Network { name: "pgprov-lab-mgmt".to_owned(), subnet: "10.77.11.0/24".to_owned() },
        faults: Vec::new(),
    }
}

/// A lab in trouble, with more of everything.
fn trouble() -> Picture {
    let mut picture = lab();
    let mut far = picture.hosts[1].clone();
    far.name = "far".to_owned();
    far.health = Health::Bad;
    far.state = "unreachable".to_owned();
    far.cut = true;
    picture.hosts.push(far);
    picture.replication.push(Replication {
        from: "s".to_owned(),
        to: "far".to_owned(),
        mode: Mode::Asynchronous,
        slot: String::new(),
        lag: String::new(),
        streaming: false,
    });
    picture.faults.push("far is cut off the data network".to_owned());
    picture
}

/// The texts of a picture as a reader sees them.
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| {
            node.children().filter(|child| child.is_text()).filter_map(|child| child.text()).collect()
        })
        .collect()
}

#[test]
fn the_picture_says_what_the_lab_is_in_words_and_signs() {
    let texts = texts(&svg(&trouble()));
    for text in [
        "lab",
        "PostgreSQL lab · 5 hosts · primary m · 1 fault",
        "data network pgprov-lab-data",
        "10.77.11.0/24",
        "★ PRIMARY",
        "STANDBY",
        "ARBITER",
        "● running",
        "PostgreSQL 17.6",
        "10.77.10.13",
        "synchronous",
        "slot s",
        "lag 0 B, 0.0 s",
        "✕ unreachable",
        "✕ not streaming",
        "✕",
        "cut off",
        "far is cut off the data network",
    ] {
        assert!(texts.iter().any(|shown| shown == text), "{text:?} is missing in {texts:?}");
    }
}

#[test]
fn the_picture_needs_nothing_else() {
    let svg = svg(&lab()).replace("http://www.w3.org/2000/svg", "");
    for outside in ["http", "url(", "href", "@import", "<script", "<image"] {
        assert!(!svg.contains(outside), "{outside}");
    }
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn any_text_is_shown_and_never_becomes_markup() {
    let bad = "</text><script>&\"'`;#|%%\u{1}\u{ffff}\n";
    let mut picture = trouble();
    picture.lab = bad.to_owned();
    picture.faults.push(bad.to_owned());
    picture.replication[0].slot = bad.to_owned();
    for host in &mut picture.hosts[2..4] {
        host.name = format!("{bad}{bad}");
        host.roles = vec![bad.to_owned()];
        host.state = bad.to_owned();
    }
    let shown = texts(&svg(&picture));
    assert!(shown.iter().any(|text| text.starts_with("</text><script>&\"'`;#|%%")), "{shown:?}");

    let text = mermaid(&picture);
    for line in text.lines().skip(2) {
        let quotes = line.matches('"').count();
        assert!(quotes == 0 || quotes == 2, "{line}");
        assert!(!line.contains("script>") && !line.contains("`"), "{line}");
    }
}

#[test]
fn every_host_has_a_place_of_its_own_whoever_follows_whom() {
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    for chosen in 0_u32..64 {
        for primary in [0, 1, 2] {
            let mut picture = lab();
            for (at, name) in ["a", "b", "c"].iter().enumerate() {
                picture.hosts[at].name = (*name).to_owned();
                let server = if at == primary { Server::Primary } else { Server::Standby };
                picture.hosts[at].server = Some(server);
            }
            let link = picture.replication[0].clone();
            let names = |at: usize| picture.hosts[at].name.clone();
            picture.replication = (0..)
                .zip(pairs)
                .filter(|(bit, _)| chosen & (1 << bit) != 0)
                .map(|(_, (from, to))| Replication { from: names(from), to: names(to), ..link.clone() })
                .collect();
            check_layout(&picture);
        }
    }
}

#[test]
fn large_and_empty_labs_have_a_picture() {
    check_layout(&Picture::default());
    let mut picture = lab();
    for at in 0..1000 {
        let host = Host { name: format!("h{at}"), ..picture.hosts[at % 4].clone() };
        picture.hosts.push(host);
    }
    // To a host that does not exist, and to itself.
    for to in ["nobody", "m"] {
        picture.replication.push(Replication { to: to.to_owned(), ..picture.replication[0].clone() });
    }
    check_layout(&picture);
    assert_eq!(mermaid(&picture).matches("==>").count(), 2, "only the host itself and the standby exist");
}

fn check_layout(picture: &Picture) {
    roxmltree::Document::parse(&svg(picture)).unwrap();
    let layout = layout::layout(picture);
    assert_eq!(layout.cards.len(), picture.hosts.len());
    let mut places = std::collections::HashSet::new();
    for card in &layout.cards {
        assert!(places.insert((card.x, card.y)), "two hosts at {card:?}");
        assert!(card.y > layout.data + layout::BAR_HEIGHT && card.bottom() < layout.mgmt, "{card:?}");
        assert!(card.x > layout::MARGIN && card.right() < layout.width - layout::MARGIN, "{card:?}");
        for other in &layout.cards {
            let beside = card.column != other.column && card.x.abs_diff(other.x) > layout::CARD_WIDTH;
            let above = card.column == other.column && card.y.abs_diff(other.y) > layout::CARD_HEIGHT;
            assert!(beside || above || (card.x, card.y) == (other.x, other.y), "{card:?} {other:?}");
        }
    }
    for (_, from, to) in &layout.arrows {
        assert_ne!(from, to);
    }
}

#[test]
fn servers_are_ordered_by_how_far_their_data_travels() {
    let picture = trouble();
    let columns: Vec<usize> = layout::layout(&picture).cards.iter().map(|card| card.column).collect();
    // m, s, arbiter, client, far
    assert_eq!(columns, [0, 1, 3, 4, 2]);
}

#[test]
fn the_flowchart_has_a_node_for_each_host_and_an_arrow_for_each_follower() {
    assert_eq!(
        mermaid(&trouble()),
        r#"%% lab lab
flowchart LR
  subgraph lab["pgprov-lab-data 10.77.10.0/24<br/>pgprov-lab-mgmt 10.77.11.0/24"]
    direction LR
    n0[("m · primary<br/>● running<br/>PostgreSQL 17.6<br/>postgres<br/>data 10.77.10.11<br/>mgmt 10.77.11.11")]:::primary
    n1[("s · standby<br/>● running<br/>PostgreSQL 17.6<br/>postgres<br/>data 10.77.10.12<br/>mgmt 10.77.11.12")]:::good
    n2["arbiter · arbiter<br/>● running<br/>arbiter<br/>data 10.77.10.13<br/>mgmt 10.77.11.13"]:::good
    n3["client · client<br/>● running<br/>client<br/>data 10.77.10.14<br/>mgmt 10.77.11.14"]:::good
    n4[("far · standby<br/>✕ unreachable<br/>PostgreSQL 17.6<br/>postgres<br/>data 10.77.10.12 ✕ cut<br/>mgmt 10.77.11.12")]:::bad
  end
  n0 ==>|"synchronous<br/>slot s<br/>lag 0 B, 0.0 s"| n1
  n1 --x|"asynchronous<br/>✕ not streaming"| n4
  faults{{"▲ faults<br/>far is cut off the data network"}}:::bad
  classDef primary stroke-width:4px
  classDef good stroke-width:1.5px
  classDef bad stroke-width:2px,stroke-dasharray:6 4
"#
    );
}
