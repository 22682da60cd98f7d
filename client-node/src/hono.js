import { Guard } from "./middleware.js";

export class Keyosk extends Guard {
  require(...scopes) {
    const admit = this.admit(scopes);
    return async (c, next) => {
      const { token, refusal } = await admit(c.req.header("Authorization"));
      if (refusal) return c.json(refusal.body, refusal.status, refusal.headers);
      c.set("token", token);
      await next();
    };
  }
}
