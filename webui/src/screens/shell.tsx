// What stands around every screen: the ways to the others, who is signed in, and whether what is shown is live.

import { ActionIcon, AppShell, Burger, Button, Group, Menu, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useQueryClient } from "@tanstack/react-query";
import type { LucideIcon } from "lucide-react";
import { useEffect, type ReactNode } from "react";
import { Link, useLocation } from "wouter";
import { remove, unauthorized } from "../api/client";
import { useLive, useRows, useSchemas, useStale } from "../api/hooks";
import { live } from "../api/store";
import type { Host, Session } from "../api/types";
import { uiAddress } from "../logic/instance";
import { Dot, Tool, useNow } from "../parts/basics";
import {
  AccountsIcon, ApiIcon, ApiKeyIcon, ContainerIcon, EventsIcon, FloatingIcon, HandlerIcon, HostIcon, ImageIcon, LinkIcon, MeshIcon, MoonIcon, NetworkIcon,
  OverviewIcon, SettingsIcon, SignOutIcon, SshKeyIcon, SunIcon, UserIcon,
} from "../parts/icons";
import { Logo } from "../parts/logo";
import { Palette } from "../parts/palette";
import { texts } from "../texts";

interface Entry {
  to: string;
  label: string;
  icon: LucideIcon;
  /** Shown where the account may see this type. */
  type?: string;
}

export const GROUPS: { label: string; entries: Entry[] }[] = [
  {
    label: texts.nav.cluster,
    entries: [
      { to: "/overview", label: texts.nav.overview, icon: OverviewIcon },
      { to: "/hosts", label: texts.nav.hosts, icon: HostIcon },
      { to: "/instances", label: texts.nav.instances, icon: ContainerIcon },
      { to: "/events", label: texts.nav.events, icon: EventsIcon },
    ],
  },
  {
    label: texts.nav.network,
    entries: [
      { to: "/links", label: texts.nav.links, icon: LinkIcon, type: "instanceLink" },
      { to: "/networks", label: texts.nav.networks, icon: NetworkIcon, type: "network" },
      { to: "/floating", label: texts.nav.floating, icon: FloatingIcon, type: "ipAddress" },
      { to: "/mesh", label: texts.nav.mesh, icon: MeshIcon },
    ],
  },
  {
    label: texts.nav.library,
    entries: [
      { to: "/images", label: texts.nav.images, icon: ImageIcon, type: "image" },
      { to: "/ssh-keys", label: texts.nav.sshKeys, icon: SshKeyIcon, type: "sshKey" },
    ],
  },
  {
    label: texts.nav.access,
    entries: [
      { to: "/api-keys", label: texts.nav.apiKeys, icon: ApiKeyIcon, type: "apiKey" },
      { to: "/accounts", label: texts.nav.accounts, icon: AccountsIcon, type: "account" },
    ],
  },
  {
    label: texts.nav.system,
    entries: [
      { to: "/handlers", label: texts.nav.handlers, icon: HandlerIcon, type: "externalHandler" },
      { to: "/settings", label: texts.nav.settings, icon: SettingsIcon },
    ],
  },
];

export function Shell({ session, children }: { session: Session; children: ReactNode }) {
  const [opened, { toggle, close }] = useDisclosure(false);
  const [path] = useLocation();
  const schemas = useSchemas();
  useEffect(close, [path, close]);

  const shown = (entry: Entry) => !entry.type || !schemas.data || schemas.data.has(entry.type);
  return (
    <AppShell header={{ height: 54 }} navbar={{ width: 228, breakpoint: "sm", collapsed: { mobile: !opened } }} padding="md" layout="alt">
      <a className="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>{texts.skip}</a>
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap" gap="sm">
          <Group gap="sm" wrap="nowrap">
            <Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={texts.nav.open} aria-expanded={opened} />
            <Palette groups={GROUPS} />
          </Group>
          <Group gap="xs" wrap="nowrap">
            <LiveMark />
            <ThemeSwitch />
            <AccountMenu session={session} />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar aria-label={texts.nav.label}>
        <Group px="md" h={54} justify="space-between" wrap="nowrap" style={{ flex: "none" }}>
          <Link to="/overview" className="link"><Logo /></Link>
          <Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={texts.nav.open} />
        </Group>
        <div style={{ overflowY: "auto", padding: "0 10px 16px" }}>
          {GROUPS.map((group) => (
            <div key={group.label}>
              <div className="nav-group">{group.label}</div>
              {group.entries.filter(shown).map(({ to, label, icon: Icon }) => (
                <Link key={to} to={to} className="nav-link" aria-current={path === to || path.startsWith(`${to}/`) ? "page" : undefined}>
                  <Icon size={17} aria-hidden />
                  {label}
                </Link>
              ))}
            </div>
          ))}
          <a className="nav-link" href="/v1" target="_blank" rel="noreferrer">
            <ApiIcon size={17} aria-hidden />
            {texts.nav.apiBrowser}
          </a>
        </div>
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1} style={{ outline: "none" }}>
        <Banners path={path} />
        {children}
      </AppShell.Main>
    </AppShell>
  );
}

function LiveMark() {
  const { phase } = useLive();
  const [word, shown] = phase === "live" ? ([texts.live.on, "good"] as const) : phase === "connecting" ? ([texts.live.connecting, "busy"] as const) : ([texts.live.lost, "bad"] as const);
  return (
    <span className="state" data-tone={shown} role="status">
      <Dot tone={shown} />
      {word}
    </span>
  );
}

function Banners({ path }: { path: string }) {
  const { phase, lostAt } = useLive();
  const stale = useStale();
  const now = useNow("second");
  const hosts = useRows<Host>("hosts");
  if (phase === "live" && !stale) return null;
  if (phase === "lost" && lostAt && now - lostAt > 1500) {
    const others = (hosts.data ?? []).filter((host) => host.state === "active" && host.agentAddress && host.agentAddress !== location.host);
    return (
      <div className="banner" data-tone="bad" role="alert">
        <strong>{texts.live.lost}</strong>
        <span>{texts.live.lostText(Math.round((now - lostAt) / 1000))}</span>
        <Button size="compact-sm" variant="default" onClick={() => live.tryNow()}>{texts.live.tryNow}</Button>
        {others.length > 0 && <span>{texts.live.elsewhere}</span>}
        {others.slice(0, 4).map((host) => (
          <a key={host.id} href={uiAddress(host, path, location.protocol) ?? undefined}>{host.name}</a>
        ))}
      </div>
    );
  }
  return stale ? <div className="banner" data-tone="bad" role="alert">{texts.live.staleText}</div> : null;
}

function ThemeSwitch() {
  const { setColorScheme } = useMantineColorScheme();
  const now = useComputedColorScheme("light");
  const other = now === "dark" ? "light" : "dark";
  return <Tool label={other === "dark" ? texts.theme.dark : texts.theme.light} icon={other === "dark" ? MoonIcon : SunIcon} onClick={() => setColorScheme(other)} />;
}

function AccountMenu({ session }: { session: Session }) {
  const queries = useQueryClient();
  async function signOut() {
    await remove("/session").catch(() => undefined);
    queries.clear();
    unauthorized.dispatchEvent(new Event("over"));
  }
  return (
    <Menu position="bottom-end" width={200}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label={texts.account.menu}><UserIcon size={18} aria-hidden /></ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>{texts.account.role[session.role]} · {session.accountId}</Menu.Label>
        <Menu.Item leftSection={<SignOutIcon size={16} />} onClick={() => void signOut()}>{texts.account.signOut}</Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
