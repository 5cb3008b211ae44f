// Who is not signed in is asked for a key; everyone else has the shell and its screens.

import { Center, Loader } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useState } from "react";
import { Redirect, Route, Router, Switch } from "wouter";
import { unauthorized } from "./api/client";
import { useSession } from "./api/hooks";
import { live } from "./api/store";
import { ActingProvider } from "./parts/acting";
import { Loading, Problem } from "./parts/basics";
import { MenuProvider } from "./parts/menu";
import { Boundary } from "./parts/boundary";
import { Hosts } from "./screens/hosts";
import { Shell } from "./screens/shell";
import { SignIn } from "./screens/sign-in";

const Overview = lazy(() => import("./screens/overview"));
const HostScreen = lazy(() => import("./screens/host"));
const Instances = lazy(() => import("./screens/instances"));
const InstanceScreen = lazy(() => import("./screens/instance"));
const NewInstance = lazy(() => import("./screens/new-instance"));
const Links = lazy(() => import("./screens/links"));
const Networks = lazy(() => import("./screens/networks"));
const Floating = lazy(() => import("./screens/floating"));
const Mesh = lazy(() => import("./screens/mesh"));
const Images = lazy(() => import("./screens/images"));
const SshKeys = lazy(() => import("./screens/ssh-keys"));
const ApiKeys = lazy(() => import("./screens/api-keys"));
const Accounts = lazy(() => import("./screens/accounts"));
const Handlers = lazy(() => import("./screens/handlers"));
const Events = lazy(() => import("./screens/events"));
const Settings = lazy(() => import("./screens/settings"));

export function App() {
  const session = useSession();
  const queries = useQueryClient();
  const [over, setOver] = useState(false);
  const signedIn = session.data !== undefined && !session.isError;

  useEffect(() => {
    if (!signedIn) return;
    live.start();
    return () => live.stop();
  }, [signedIn]);

  useEffect(() => {
    const end = () => {
      live.stop();
      setOver(true);
      // What an account saw is not for whoever uses the browser next.
      queries.clear();
    };
    unauthorized.addEventListener("over", end);
    return () => unauthorized.removeEventListener("over", end);
  }, [queries]);

  if (session.isPending && !over) {
    return (
      <Center h="100dvh">
        <Loader size="sm" />
      </Center>
    );
  }
  if (session.isError && (session.error as { status?: number }).status !== 401 && !over) {
    return (
      <Center h="100dvh">
        <Problem error={session.error} retry={() => void session.refetch()} />
      </Center>
    );
  }
  if (!signedIn || over) {
    return (
      <SignIn
        over={over}
        done={() => {
          setOver(false);
          void queries.resetQueries({ queryKey: ["session"] });
        }}
      />
    );
  }
  return (
    <Router base="/ui">
      <ActingProvider>
        <MenuProvider>
        <Shell session={session.data}>
          <Boundary>
            <Suspense fallback={<Loading />}>
              <Switch>
                <Route path="/"><Redirect to="/hosts" replace /></Route>
                <Route path="/overview"><Overview /></Route>
                <Route path="/hosts"><Hosts /></Route>
                <Route path="/hosts/:id">{({ id }) => <HostScreen id={id} key={id} />}</Route>
                <Route path="/instances"><Instances /></Route>
                <Route path="/new/:type">{({ type }) => <NewInstance type={type} key={type} />}</Route>
                <Route path="/instances/:id/:tab?">{({ id, tab }) => <InstanceScreen id={id} tab={tab ?? "summary"} key={id} />}</Route>
                <Route path="/links"><Links /></Route>
                <Route path="/networks"><Networks /></Route>
                <Route path="/floating"><Floating /></Route>
                <Route path="/mesh"><Mesh /></Route>
                <Route path="/images"><Images /></Route>
                <Route path="/ssh-keys"><SshKeys /></Route>
                <Route path="/api-keys"><ApiKeys /></Route>
                <Route path="/accounts"><Accounts /></Route>
                <Route path="/handlers"><Handlers /></Route>
                <Route path="/events"><Events /></Route>
                <Route path="/settings"><Settings /></Route>
                <Route><Redirect to="/hosts" replace /></Route>
              </Switch>
            </Suspense>
          </Boundary>
        </Shell>
        </MenuProvider>
      </ActingProvider>
    </Router>
  );
}
