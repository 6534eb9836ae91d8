// The first question, which models there are: it is on its way while the rest of the page is still being read.

import { get } from "./api.js";

let early = get("v1/models");
// Whoever asks for the models is told.
early.catch(() => {});

/** The models of the server: as they were asked for when the page was opened, and anew after that. Raises Problem. */
export function askModels() {
  const answer = early ?? get("v1/models");
  early = null;
  return answer;
}
