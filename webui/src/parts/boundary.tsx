// A fault in one screen leaves the rest of the page standing.

import { Alert, Button } from "@mantine/core";
import { Component, type ReactNode } from "react";
import { texts } from "../texts";

export class Boundary extends Component<{ children: ReactNode }, { error: Error | null; path: string }> {
  override state = { error: null as Error | null, path: "" };

  static getDerivedStateFromError(error: Error) {
    return { error, path: location.pathname };
  }

  override componentDidUpdate() {
    if (this.state.error && location.pathname !== this.state.path) this.setState({ error: null });
  }

  override render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    return (
      <Alert color="red" title={texts.errors.page} role="alert">
        <div className="wrap">{error.message}</div>
        <Button mt="sm" size="xs" variant="default" onClick={() => location.reload()}>{texts.errors.reload}</Button>
      </Alert>
    );
  }
}
