// One menu for the whole page, opened beside whatever button asks for it: a list of thousands has not one in each row.

import { Menu } from "@mantine/core";
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import type { LucideIcon } from "lucide-react";

export interface MenuEntry {
  label: string;
  icon?: LucideIcon;
  /** Not to be taken back easily. */
  grave?: boolean;
  act: () => void;
}

interface Opened {
  button: HTMLElement;
  label: string;
  entries: MenuEntry[];
}

type Open = (button: HTMLElement, label: string, entries: MenuEntry[]) => void;

const Context = createContext<Open | null>(null);

export function useMenu(): Open {
  const open = useContext(Context);
  if (!open) throw new Error("outside of MenuProvider");
  return open;
}

export function MenuProvider({ children }: { children: ReactNode }) {
  const [opened, setOpened] = useState<Opened | null>(null);
  const open = useCallback<Open>((button, label, entries) => setOpened({ button, label, entries }), []);
  const close = useCallback(() => setOpened(null), []);

  useEffect(() => {
    if (!opened) return;
    const { button } = opened;
    button.setAttribute("aria-expanded", "true");
    // It stands where the button stood.
    const scrolled = (event: Event) => (event.target as Element).contains?.(button) && close();
    window.addEventListener("scroll", scrolled, true);
    window.addEventListener("resize", close);
    return () => {
      button.setAttribute("aria-expanded", "false");
      window.removeEventListener("scroll", scrolled, true);
      window.removeEventListener("resize", close);
    };
  }, [opened, close]);

  const place = useMemo(() => opened?.button.getBoundingClientRect(), [opened]);
  return (
    <Context.Provider value={open}>
      {children}
      {opened && place && (
        <Menu
          opened
          onClose={() => {
            opened.button.focus();
            close();
          }}
          position="bottom-end"
          withinPortal
          returnFocus={false}
        >
          <Menu.Target>
            <span style={{ position: "fixed", left: place.left, top: place.top, width: place.width, height: place.height, pointerEvents: "none" }} aria-hidden />
          </Menu.Target>
          <Menu.Dropdown aria-label={opened.label} aria-labelledby={undefined}>
            {opened.entries.map(({ label, icon: Icon, grave, act }) => (
              <Menu.Item key={label} color={grave ? "red" : undefined} leftSection={Icon && <Icon size={15} aria-hidden />} onClick={act}>{label}</Menu.Item>
            ))}
          </Menu.Dropdown>
        </Menu>
      )}
    </Context.Provider>
  );
}
