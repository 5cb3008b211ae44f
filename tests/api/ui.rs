//! The web UI's page and files, whether or not it was built before the binary was, and who a session is.

use crate::world::{Reply, World};

const AGENT: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0");

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn anyone_is_given_the_page_and_it_runs_its_own_scripts_alone() {
    let world = World::new().await;
    let mut policies = Vec::new();
    for path in ["/ui/", "/ui/instances/1i5/logs", "/ui/%3Cscript%3E"] {
        let page = world.tcp("GET", path, "", &[AGENT]).await;
        let built = page.text.contains("id=\"root\"");
        assert_eq!(page.status, if built { 200 } else { 404 }, "{}", page.text);
        assert!(built || page.text.contains("was not built"), "{}", page.text);
        assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
        assert_eq!((header(&page, "cache-control"), header(&page, "referrer-policy")), ("no-store", "no-referrer"));
        let policy = header(&page, "content-security-policy").to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self' 'nonce-"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!page.text.contains("{nonce}") && !page.text.contains("<script>"), "{}", page.text);
        assert!(header(&page, "set-cookie").starts_with("CSRF="));
        policies.push(policy);
        // Each file that the page names is here, for anyone, packed and not, and kept for good.
        for address in page.text.split('"').filter(|part| part.starts_with("/ui/assets/")) {
            let plain = world.tcp("GET", address, "", &[AGENT]).await;
            let form = if address.ends_with(".css") { "text/css" } else { "text/javascript" };
            assert_eq!((plain.status, header(&plain, "content-type").starts_with(form)), (200, true), "{address}");
            assert_eq!(header(&plain, "cache-control"), "public, max-age=31536000, immutable");
            let packed = world.tcp("HEAD", address, "", &[AGENT, ("accept-encoding", "gzip")]).await;
            assert_eq!((packed.status, header(&packed, "content-encoding")), (200, "gzip"), "{address}");
        }
    }
    policies.dedup();
    assert_eq!(policies.len(), 3, "a nonce is used once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_screen_is_no_page() {
    let world = World::new().await;
    let moved = world.tcp("GET", "/ui", "", &[AGENT]).await;
    assert_eq!((moved.status, header(&moved, "location")), (302, "/ui/"));
    // Of an older page, or made up: a page in its place would be no script.
    for path in ["/ui/assets/index-old.js", "/ui/../secret.txt", "/ui/assets/../../Cargo.toml", "/ui/nothing.svg"] {
        assert_eq!(world.tcp("GET", path, "", &[AGENT]).await.error().0, 404, "{path}");
    }
    assert_eq!(world.tcp("POST", "/ui/", "", &[("user-agent", "curl/8")]).await.error().0, 405);
    assert_eq!(world.tcp("GET", "/uibrowser", "", &[AGENT]).await.error().0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_who_that_is() {
    let world = World::new().await;
    let nobody = world.tcp("GET", "/session", "", &[AGENT, ("x-api-no-challenge", "true")]).await;
    assert_eq!((nobody.error().0, nobody.headers.get("www-authenticate")), (401, None));
    let key = world.key(1).await;
    let asked = world.tcp("GET", "/session", "", &[AGENT, ("authorization", &key)]).await;
    assert_eq!(
        (asked.status, &asked.json()["accountId"], &asked.json()["role"]),
        (200, &"1a1".into(), &"admin".into())
    );
    assert_eq!(world.ask("GET", "/session", "").await.json()["role"], "admin", "root, by the socket");
}
