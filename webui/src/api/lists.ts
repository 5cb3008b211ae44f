// The lists that the UI holds, and which of them a row belongs to.

export const lists = {
  instances: "/v1/instances",
  hosts: "/v1/hosts",
  images: "/v1/images",
  networks: "/v1/networks",
  accounts: "/v1/accounts",
  apiKeys: "/v1/apikeys",
  sshKeys: "/v1/sshkeys",
  pools: "/v1/subnetippools",
  addresses: "/v1/ipaddresses",
  handlers: "/v1/externalhandlers",
  agents: "/v1/agents",
} as const;

export type ListName = keyof typeof lists;

const BY_TYPE: Record<string, ListName> = {
  instance: "instances",
  container: "instances",
  virtualMachine: "instances",
  host: "hosts",
  image: "images",
  network: "networks",
  hostOnlyNetwork: "networks",
  account: "accounts",
  apiKey: "apiKeys",
  sshKey: "sshKeys",
  subnetIpPool: "pools",
  ipPool: "pools",
  ipAddress: "addresses",
  externalHandler: "handlers",
  agent: "agents",
};

export function listOf(type: string): ListName | undefined {
  return BY_TYPE[type];
}
