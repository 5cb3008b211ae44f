// The API's rows. `schema.d.ts` is made from its OpenAPI document (`npm run types`).

import type { components } from "./schema";

type Schemas = components["schemas"];
/** Links and actions by their names; the document says only that they are objects. */
type Live<T> = Omit<T, "links" | "actions"> & { links: Record<string, string>; actions: Record<string, string> };

export type Container = Live<Schemas["container"]>;
export type VirtualMachine = Live<Schemas["virtualMachine"]>;
/** Told apart by `type`. */
export type Instance = Container & Partial<Pick<VirtualMachine, "vcpu">>;
export type Host = Live<Schemas["host"]>;
export type Account = Live<Schemas["account"]>;
/** The secret is told by the answer that makes it, alone. */
export type ApiKey = Live<Schemas["apiKey"]> & { secretValue?: string | null };
export type SshKey = Live<Schemas["sshKey"]>;
export type Image = Live<Schemas["image"]>;
export type Network = Live<Schemas["network"]>;
export type Subnet = Live<Schemas["subnet"]>;
export type IpPool = Live<Schemas["subnetIpPool"]>;
export type IpAddress = Live<Schemas["ipAddress"]>;
export type Port = Live<Schemas["port"]>;
export type InstanceLink = Omit<Live<Schemas["instanceLink"]>, "ports"> & { ports?: LinkPort[] | null };
export type ExternalHandler = Live<Schemas["externalHandler"]>;
export type ProcessInstance = Live<Schemas["processInstance"]>;

export interface LinkPort {
  publicPort: number;
  privatePort: number;
  protocol: string;
  ipAddress: string;
}

/** What all rows have. */
export interface Row {
  id: string;
  type: string;
  links: Record<string, string>;
  actions: Record<string, string>;
  name?: string | null;
  description?: string | null;
  state?: string | null;
  transitioning?: "yes" | "no" | "error" | null;
  transitioningMessage?: string | null;
  transitioningProgress?: number | null;
  created?: string | null;
  createdTS?: number | null;
  removed?: string | null;
  accountId?: string | null;
  uuid?: string | null;
  kind?: string | null;
}

export interface Collection<T> {
  data: T[];
  pagination?: { next: string | null } | null;
  createTypes?: Record<string, string>;
}

export interface Field {
  type: string;
  create?: boolean;
  update?: boolean;
  required?: boolean;
  nullable?: boolean;
  unique?: boolean;
  options?: string[] | null;
  default?: unknown;
  min?: number | null;
  max?: number | null;
  minLength?: number | null;
  maxLength?: number | null;
  validChars?: string | null;
  invalidChars?: string | null;
  description?: string | null;
}

export interface Schema {
  id: string;
  pluralName: string;
  links: Record<string, string>;
  collectionMethods: string[];
  resourceMethods: string[];
  resourceFields: Record<string, Field>;
  resourceActions?: Record<string, unknown> | null;
}

export interface Session {
  accountId: string;
  role: "admin" | "readAdmin" | "user";
  expires?: string;
}

export type PeerState = "up" | "waiting" | "silent" | "plain" | "refused";

export interface Peer {
  host: string;
  address: string | null;
  state: PeerState;
  reason: string | null;
  upSince: number | null;
  heard: number | null;
  rotated: number | null;
  associations: number;
  bytesIn: number;
  bytesOut: number;
  packetsIn: number;
  packetsOut: number;
  tooOld: number;
  replayed: number;
  forged: number;
}

export interface Mesh {
  host: string;
  address: string | null;
  site: string | null;
  encryption: string;
  mtu: number;
  problems: string[];
  peers: Peer[];
}

/** One of a container's figures, a second. */
export interface Figures {
  time: string;
  cpu?: { percent?: number; processors?: number } | null;
  memory?: { usedBytes: number; limitBytes?: number | null } | null;
  network?: Record<string, { receivedBytes: number; sentBytes: number }> | null;
  blkio?: { readBytes: number; writtenBytes: number } | null;
  processes?: number | null;
}
