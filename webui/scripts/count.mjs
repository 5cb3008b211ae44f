// A reporter for vitest: `N passed, N failed`, as scripts/test reads it.

export default class Count {
  onTestRunEnd(modules, errors) {
    const states = modules.flatMap((module) => [...module.children.allTests()].map((test) => test.result().state));
    const passed = states.filter((state) => state === "passed").length;
    // Whatever is not good is bad: skipped, too.
    console.log(`${passed} passed, ${states.length - passed + errors.length} failed`);
  }
}
